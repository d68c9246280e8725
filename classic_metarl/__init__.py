"""Classic meta-reinforcement learning, one file per system, on the record, the credits and the trainer of `mrt`.

A system is one file of at most 300 lines: the equation, the paper, what deviates from it, then the code. The folders
are the perspectives from which the field has seen adaptation:

    black_box/      the history goes into a recurrent or attentive policy, adaptation is its forward pass (RL2)
    gradient/       adaptation is a gradient step from a learned initialisation (MAML)
    inference/      adaptation is a posterior over tasks (PEARL, VariBAD)
    model_based/    adaptation is a fitted model of the environment
    meta_learned/   the objective or the learning rule itself is learned

Nothing here is imported by `mrt`; a recipe names its trainer (`trainer: classic_metarl.gradient.maml:MAMLTrainer`).
"""
