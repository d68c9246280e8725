"""Inference-based meta-RL: adaptation is a posterior over what the task is, and acting well means finding out.

    pearl.py                posterior sampling: a latent task is drawn once an episode (Rakelly et al. 2019)
    varibad.py              a variational belief, decoded into rewards and transitions (Zintgraf et al. 2020)
    task_inference.py       a belief that is taught the task itself (Humplik et al. 2019)
    metacure.py             posterior sampling, and an explorer that is paid for information (Zhang et al. 2021)
    meld.py                 a filter whose observations are pictures and rewards (Zhao et al. 2020)
    dream.py                explores to find out, exploits what it is told: learned apart (Liu et al. 2021)
    informed_policy.py      IMPORT: one policy with and without the task (Kamienny et al. 2020)

What they share is in `classic_metarl/trainers/`: `context_encoders.py`, `beliefs.py`, `latent_states.py`
and `informed.py`.
"""
