"""Trainer of systems that learn within a trial alone: it plays trials on new tasks and records them, and nothing is
learned across them. What stands in the recipe is the whole system.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from mrt.control.envs import EnvTasks
from mrt.control.loading import FromRecipe
from mrt.control.oracles import episode_bounds
from mrt.control.rollout import rollout
from mrt.trainer import TrialTrainer
from mrt.training.collection import Batch


class LifelongTrainer(FromRecipe, TrialTrainer):
    """`per_device_train_batch_size` trials in every update. A subclass gives `policy_class`."""

    tasks: EnvTasks
    rows_written = 8

    def __init__(self, model: Any, args: Any, tasks: EnvTasks, **kwargs: Any) -> None:
        super().__init__(model, args, tasks.to(args.device), **kwargs)

    def next_batch(self, indices: Sequence[int]) -> Batch:
        """One trial on each of the tasks at `indices`."""
        env, params = self.tasks.env, self.tasks.batch(self.args.seed, indices)
        keys = env.task_keys(params, len(indices), self.rows_written or 0)
        number = torch.tensor(indices, device=env.device)
        trials = rollout(env, self.unwrapped, params, seed=int(torch.randint(2**31, (1,))), task=number, keys=keys)
        return self._recorded(dataclasses.replace(trials, privileged=episode_bounds(env, params)))

    def update(self, batch: Any) -> bool:
        """Nothing is learned across trials."""
        return True
