"""Agents for evolution: small networks that act without noise, one alone or every individual side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from mrt.control.agent import Agent, Choice, Seen, Shape
from mrt.control.envs.base import Spec
from mrt.errors import ConfigError


class PlainConfig(PreTrainedConfig):
    """Sizes of a `PlainPolicy`."""

    model_type = "mrt-plain"

    def __init__(self, observation: int = 1, action_size: int = 1, hidden_size: int = 16, **kwargs: Any) -> None:
        self.observation, self.action_size, self.hidden_size = observation, action_size, hidden_size
        super().__init__(**kwargs)


class PlainPolicy(PreTrainedModel, Agent):
    """A tanh network with one hidden layer that acts without noise: what evolution moves."""

    config_class = PlainConfig
    base_model_prefix = "policy"
    main_input_name = "observation"

    def __init__(self, config: PlainConfig) -> None:
        super().__init__(config)
        self.hidden = nn.Linear(config.observation, config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.action_size)
        self.shape = Shape(config.observation, 0, config.action_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Parts come initialised."""

    @classmethod
    def for_spec(cls, spec: Spec, **options: Any) -> PlainPolicy:
        """A fresh policy for an environment.

        Raises:
            ConfigError: for discrete actions.
        """
        if spec.actions:
            raise ConfigError(f"agents that are evolved need continuous actions, this environment has {spec.actions}")
        return cls(PlainConfig(spec.observation, spec.action_size, **options))

    def init_state(self, rows: int) -> Any:
        """No memory."""

    @torch.no_grad()
    def act(self, seen: Seen, state: Any, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        actions = torch.tanh(self.out(torch.tanh(self.hidden(seen["observation"].to(self.device)))))
        zeros = torch.zeros(len(actions), device=actions.device)
        return Choice(actions, zeros, torch.full_like(zeros, torch.nan), state)


class People(Agent):
    """One agent a row, each with weights of its own: tensors (P, ...) in the order of a policy's parameters."""

    def __init__(self, people: Sequence[Tensor]) -> None:
        self.people = people

    def init_state(self, rows: int) -> Any:
        return None

    def act(self, seen: Seen, state: Any, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        weight, bias, out_weight, out_bias = self.people
        hidden = torch.tanh(torch.einsum("phd,pd->ph", weight, seen["observation"]) + bias)
        actions = torch.tanh(torch.einsum("pah,ph->pa", out_weight, hidden) + out_bias)
        zeros = torch.zeros(len(actions))
        return Choice(actions, zeros, zeros, state)
