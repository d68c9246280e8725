"""Exploring by chance actions, for policies of discrete actions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mrt.control.agent import Agent, Choice, Seen


class Exploring(Agent):
    """The policy with chance actions: each row has a share of them of its own for the trial, U[0, epsilon].

    Args:
        policy: an agent whose `step(seen, state)` gives the logits (B, A) of a `Categorical`, and the next state.
    """

    def __init__(self, policy: Any, epsilon: float) -> None:
        self.policy, self.epsilon, self.shape = policy, epsilon, policy.shape

    def init_state(self, rows: int) -> Any:
        return self.epsilon * torch.rand(rows, 1, device=self.policy.device), self.policy.init_state(rows)

    def fork(self, state: Any, rows: Tensor) -> Any:
        return state[0][rows], self.policy.fork(state[1], rows)

    def act(self, seen: Seen, state: Any, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        epsilon, memory = state
        logits, memory = self.policy.step(seen, memory)
        mixed = torch.log((1 - epsilon) * logits.softmax(-1) + epsilon / logits.shape[-1])
        actions = mixed.argmax(-1) if greedy else self.policy.distribution.sample(mixed, generator)
        logprobs = self.policy.distribution.logprob(mixed, actions)
        return Choice(actions, logprobs, torch.full_like(logprobs, torch.nan), (epsilon, memory))
