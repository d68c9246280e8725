"""Control: environments on tensors, oracles, policies and rollouts, on the same record, credits and trainer as text."""
