"""Inference-based meta-RL: adaptation is a posterior over what the task is, and acting well means finding out.

pearl.py   posterior sampling: a latent task is drawn once an episode (Rakelly 2019)
"""
