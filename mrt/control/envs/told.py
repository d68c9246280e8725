"""A task that is told: the multi-task policy pi(a | s, z) of the meta-RL lectures, as an environment.

    tasks: {name: grid-navi, episodes: 1, tell_task: true}

The observation ends with what defines the task, so nothing is left to be found out. A policy trained so is the ceiling
of meta-RL on the same tasks, and generalises to new ones without adaptation (zero-shot) as far as their description
says what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mrt.control.envs.base import TensorEnv
from mrt.control.envs.wrappers import Wrapper


class ToldTask(Wrapper):
    """The observation, then every parameter of the task in the order of their names, flattened.

    Parameters with a known range are scaled to [-1, 1]; the others come as they are.

    Raises:
        ConfigError: for an environment that is not on tensors.
    """

    def __init__(self, env: TensorEnv) -> None:
        super().__init__(env)
        one = env.task_params(torch.zeros(1, env.task_draws))
        self.ranges = env.task_ranges()
        self.spec = replace(env.spec, observation=env.spec.observation + sum(one[name].numel() for name in one))

    def observe(self) -> Tensor:
        return torch.cat([super().observe(), task_vectors({name: self._scaled(name) for name in self.params})], 1)

    def _scaled(self, name: str) -> Tensor:
        if name not in self.ranges:
            return self.params[name]
        low, high = self.ranges[name]
        return 2 * (self.params[name] - low) / (high - low) - 1


def task_vectors(params: Mapping[str, Tensor]) -> Tensor:
    """(B, D) float32: all parameters of each task one after the other, by name."""
    return torch.cat(
        [
            params[name].float().flatten(1) if params[name].ndim > 1 else params[name].float()[:, None]
            for name in sorted(params)
        ],
        1,
    )
