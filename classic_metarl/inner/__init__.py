"""Adaptation by gradients: inner steps, learners whose weights differ by task, and the estimators that they follow.

gradient_steps.py  gradient steps as an `Adaptation`, one batched computation for all tasks: read it first
gradient_agent.py  a trained meta-learner that plays and adapts
task_networks.py   learners whose weights may differ by task         task_policy.py  policies likewise, and playing them
meta_policy.py     theta and its inner step                          stages.py       stages of adaptation in the record
stage_credit.py    credit of one stage                               linear_baseline.py  values fitted to one stage
estimators.py      surrogates of the policy gradient, which differ in their Hessians
"""
