"""Black-box meta-learning: the history goes into the policy, and adaptation is its forward pass.

memories    snail.py (Mishra 2018)   windows.py (TrMRL, Melo 2022)   episodic_lstm.py (Ritter 2018); GRU, LSTM and
            the transformer that learns in context are in `mrt.control.memories`
systems     wang.py (learning to reinforcement learn)   rl2.py (RL2 with PPO and with TRPO)   distilled.py
few-shot    matching.py (Vinyals 2016)   mann.py (Santoro 2016)   tcml.py (Mishra 2018)
"""
