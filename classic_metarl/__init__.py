"""Classic meta-reinforcement learning, one file per system, on the record, the credits and the trainer of `mrt`.

A system is one file of at most 300 lines: the equation, the paper, what deviates from it, then the code. The folders
of systems are the perspectives from which the field has seen adaptation:

    black_box/           the history goes into a recurrent or attentive policy, adaptation is its forward pass (RL2)
    gradient/            adaptation is a gradient step from a learned initialisation (MAML)
    inference/           adaptation is a posterior over tasks (PEARL, VariBAD)
    model_based/         adaptation is a fitted model of the environment
    meta_learned/        the objective, the learning rule or the memory itself is learned
    task_distributions/  where tasks come from
    emergent/            what appears without having been built in

They build on `problems/` (few-shot families), `inner/` (adaptation by gradients) and `trainers/` (shared by several
systems); `baselines/` are the rows to compare with. Nothing here is imported by `mrt`; a recipe names its trainer
(`trainer: classic_metarl.gradient.maml:MAMLTrainer`).
"""
