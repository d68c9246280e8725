"""Trainers that several systems share.

few_shot.py  supervised meta-learners, with loss_curves.py: what adaptation bought
meta_rl.py   meta-RL by gradients, with meta_rl_config.py and return_curves.py: returns after each gradient step
context_encoders.py  a belief about the task from transitions: a product of Gaussians, or a recurrent one
"""
