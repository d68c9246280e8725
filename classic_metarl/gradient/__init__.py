"""Gradient-based meta-learning: adaptation is a gradient step from a learned initialisation.

maml.py fomaml.py anil.py meta_sgd.py reptile.py   few-shot learning
lora.py                                            the same, on the adapters of a language model
baldwin.py                                         the initialisation is evolved, fitness is what is left after learning
mil.py                                             imitation from one demonstration
maml_trpo.py emaml.py promp.py maesn.py mame.py    meta-RL, on `classic_metarl/trainers/meta_rl.py`
continuous.py lola.py                              a world, or another player, that changes as well
"""
