"""Model-predictive control: sequences of actions are tried in a model, and the first of what came out best is taken.

    shooting   the best of N sequences, drawn evenly from [-1, 1]
    mppi       N sequences around the last plan; their mean, weighted by exp(return / temperature), is the next plan;
               with several rounds their deviation follows (Williams et al. 2017, "Information theoretic MPC for
               model-based reinforcement learning", algorithm 2)

All B tasks, N candidates and both are tensors; the one loop is over the steps of the horizon. Letters: B tasks, N
candidates, H steps, A numbers of an action.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mrt.errors import ConfigError, nearest

Model = Callable[[Tensor, Tensor], Tensor]
"""(observations (B, N, D), actions (B, N, A)) -> the observations after them (B, N, D)."""
Reward = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(observations, actions, observations after) -> (B, N)."""
METHODS = ("shooting", "mppi")


@dataclass(frozen=True)
class Planner:
    """How to plan.

    Args:
        method: shooting | mppi. candidates: N. horizon: H.
        rounds: of mppi, each around the last one's plan. spread: its first deviation.
        temperature: of mppi, in standard deviations of the returns.

    Raises:
        ConfigError: at construction, for an unknown method and sizes below 1.
    """

    method: Literal["shooting", "mppi"] = "mppi"
    candidates: int = 512
    horizon: int = 10
    rounds: int = 3
    spread: float = 0.5
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"planner.method={self.method!r} is unknown; {nearest(str(self.method), METHODS)}")
        if min(self.candidates, self.horizon, self.rounds) < 1 or min(self.spread, self.temperature) <= 0:
            raise ConfigError(f"{self}: candidates, horizon and rounds must be at least 1, the rest above 0")

    def __call__(
        self,
        model: Model,
        reward: Reward,
        observation: Tensor,
        plan: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The next plan (B, H, A) from `observation` (B, D), given the last one, moved on by a step."""
        shape = (len(plan), self.candidates, *plan.shape[1:])
        if self.method == "shooting":
            actions = 2 * torch.rand(shape, generator=generator, device=plan.device) - 1
            best = evaluate(model, reward, observation, actions).argmax(1)
            return actions[torch.arange(len(plan), device=plan.device), best]
        spread = torch.full_like(plan, self.spread)
        for _ in range(self.rounds):
            noise = torch.randn(shape, generator=generator, device=plan.device)
            actions = (plan[:, None] + spread[:, None] * noise).clamp(-1, 1)
            returns = evaluate(model, reward, observation, actions)
            scaled = (returns - returns.amax(1, keepdim=True)) / (returns.std(1, keepdim=True) + 1e-8)
            weight = torch.softmax(scaled / self.temperature, 1)[..., None, None]
            plan = (weight * actions).sum(1)
            spread = (weight * (actions - plan[:, None]).square()).sum(1).sqrt() + 1e-3
        return plan


def evaluate(model: Model, reward: Reward, observation: Tensor, actions: Tensor) -> Tensor:
    """(B, N) what the sequences `actions` (B, N, H, A) return from `observation` (B, D), by the model."""
    now = observation[:, None].expand(-1, actions.shape[1], -1)
    total = now.new_zeros(now.shape[:2])
    for t in range(actions.shape[2]):
        after = model(now, actions[:, :, t])
        total = total + reward(now, actions[:, :, t], after)
        now = after
    return total
