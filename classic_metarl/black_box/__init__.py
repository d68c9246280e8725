"""Black-box meta-learning: the history goes into the policy, and adaptation is its forward pass.

memories    snail.py (Mishra 2018)   windows.py (TrMRL, Melo 2022)   episodic_lstm.py (Ritter 2018); GRU, LSTM and
            the transformer that learns in context are in `mrt.control.memories`
supervised  hochreiter.py (Hochreiter 2001: an LSTM that reads examples)
systems     wang.py (learning to reinforcement learn)   rl2.py (RL2 with PPO and with TRPO)   distilled.py
            dpt.py (decision-pretrained transformer, Lee 2023)   algorithm_distillation.py (Laskin 2022)
few-shot    matching.py (Vinyals 2016)   mann.py (Santoro 2016)   tcml.py (Mishra 2018)   siamese.py (Koch 2015)
            statistician.py (Edwards and Storkey 2017)   rare_events.py (the memory module of Kaiser 2017)
"""
