"""Policies that are written down instead of learned, and the loop that plays them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from mrt.control.envs.base import Spec, Step, TensorEnv


class Policy(Protocol):
    """A vectorised policy with a memory of its own: it sees what a learned one sees."""

    def reset(self, rows: int) -> None:
        """Forgets everything: B = `rows` new trials begin."""

    def act(self, observation: Tensor) -> Tensor:
        """(B,) int64, or (B, A) in [-1, 1], from the present observation (B, ...)."""

    def update(self, actions: Tensor, step: Step) -> None:
        """What came of the actions. In `fresh` rows nothing did: an episode has begun."""


class RandomPolicy:
    """Uniform over the actions, or over [-1, 1]^A."""

    def __init__(self, spec: Spec, seed: int = 0) -> None:
        self.spec, self.rows = spec, 0
        # Its own stream: with the environment's seed, actions and noise would be the same numbers.
        self.generator = torch.Generator().manual_seed(0x9E3779B9 ^ (seed << 16))

    def reset(self, rows: int) -> None:
        self.rows = rows

    def act(self, observation: Tensor) -> Tensor:
        if self.spec.actions:
            return torch.randint(self.spec.actions, (self.rows,), generator=self.generator)
        return 2 * torch.rand(self.rows, self.spec.action_size, generator=self.generator) - 1

    def update(self, actions: Tensor, step: Step) -> None:
        pass


def play(
    env: TensorEnv,
    policy: Policy,
    params: Mapping[str, Tensor],
    seed: int = 0,
    score: Callable[[TensorEnv, Tensor], Tensor] | None = None,
) -> Tensor:
    """Plays one trial of each task to its end.

    Args:
        params: {name: (B, ...)} as from `EnvTasks.batch`.
        seed: of the environment's noise; one seed and one task give common random numbers to all policies.
        score: replaces the reward: (environment before the step, actions) -> (B,).

    Returns:
        (B, episodes) undiscounted return of each episode, on the CPU.
    """
    observation = env.reset(params, seed)
    rows = len(observation)
    policy.reset(rows)
    returns = torch.zeros(rows, env.spec.episodes, dtype=torch.float64, device=env.device)
    alive = torch.ones(rows, dtype=torch.bool, device=env.device)
    while bool(alive.any()):
        actions = policy.act(observation)
        gained = score(env, actions.to(env.device)) if score else None
        step = env.step(actions)
        gained = step.reward if gained is None else torch.where(step.fresh, 0.0, gained)
        episode = env.episode.clamp(max=env.spec.episodes - 1)[:, None]
        returns.scatter_add_(1, episode, torch.where(alive, gained, 0.0).double()[:, None])
        policy.update(actions, step)
        alive &= ~step.trial_over
        observation = step.observation
    return returns.cpu()


def mean_and_se(values: Tensor) -> tuple[float, float]:
    """Mean of (B,) and its standard error."""
    values = values.double()
    return float(values.mean()), float(values.std() / len(values) ** 0.5)
