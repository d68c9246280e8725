"""Gradient-based meta-learning: adaptation as a differentiable operator.

functional.py   gradient steps as an `Adaptation`, one batched computation for all tasks: read it first
supervised.py   the trainer that few-shot systems share              measures.py  what adaptation bought
networks.py     learners whose weights may differ by task            fewshot.py   the families of problems:
                sinusoid.py (regression), images.py with strokes.py (classification), reaching.py (imitation)

maml.py fomaml.py anil.py meta_sgd.py reptile.py                     from a learned initialisation
meta_lstm.py l2l.py                                                  by a learned rule
baldwin.py                                                           evolved, fitness after learning
mil.py mil_baselines.py                                              from one demonstration
nearest.py finetune.py matching.py mann.py tcml.py                   rows to compare with, in classification

rl.py           the trainer that meta-RL shares, and how a system hangs itself in: read it second
task_policy.py  policies whose weights differ by task, and playing   meta_policy.py  theta and its inner step
stages.py       stages of adaptation in the record                   paired.py       dense in training, sparse at test
maml_trpo.py emaml.py promp.py maesn.py                              rl_measures.py  returns after each gradient step

estimators.py   surrogates of the policy gradient, told apart by their Hessians
trpo.py         the trust-region step                                baseline.py  linear-feature values
"""
