"""Inference-based meta-RL: adaptation is a posterior over what the task is, and acting well means finding out.

    pearl.py                posterior sampling: a latent task is drawn once an episode (Rakelly et al. 2019)
    varibad.py              a variational belief, decoded into rewards and transitions (Zintgraf et al. 2020)
    task_inference.py       a belief that is taught the task itself (Humplik et al. 2019)

What they share is in `classic_metarl/trainers/`: `context_encoders.py` and `beliefs.py`.
"""
