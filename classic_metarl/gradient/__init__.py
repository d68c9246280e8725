"""Gradient-based meta-learning: adaptation as a differentiable operator.

functional.py   gradient steps as an `Adaptation`, one batched computation for all tasks: read it first
networks.py     learners whose weights may differ by task            sinusoid.py  few-shot regression
supervised.py   the trainer that the supervised systems share        measures.py  what adaptation bought
maml.py fomaml.py meta_sgd.py anil.py reptile.py
"""
