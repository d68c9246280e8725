"""Meta-learned parts: the update rule itself is learned (meta-LSTM, learning to learn by gradient descent)."""
