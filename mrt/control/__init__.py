"""Control: environments on tensors, oracles, policies and rollouts, on the same record, credits and trainer as text.

policy.py with memories.py and distributions.py acts, rollout.py plays, probes.py measures J, trainer.py learns;
envs/ are the tasks, oracles/ what can be reached, evaluation/ what was.
"""
