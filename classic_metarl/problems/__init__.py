"""Families of few-shot problems: tasks that a supervised meta-learner, or a pair of players, is trained on.

sinusoid.py quadratics.py functions.py (regression)   images.py with strokes.py (classification)   operations.py (text)
reaching.py (imitation)   matrix_games.py (two players)   paired.py (control: dense rewards in training, sparse at test)
families.py finds them by name
"""
