"""Adaptation as inference: a posterior over the task, and a policy that acts on it or on a sample of it.

    varibad.py              a variational belief, decoded into rewards and transitions (Zintgraf et al. 2020)
    task_inference.py       a belief that is taught the task itself (Humplik et al. 2019)

What they share is in `classic_metarl/trainers/beliefs.py`.
"""
