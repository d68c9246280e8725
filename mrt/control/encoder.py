"""What a policy sees of a step as a vector, and the memory that reads it: the part that comes before any head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mrt.control.memories import Inputs, make_memory
from mrt.errors import ConfigError

if TYPE_CHECKING:
    from mrt.control.policy import PolicyConfig

INPUTS = ("observation", "action", "reward", "done")
ALL_INPUTS = (*INPUTS, "time")  # the time in the trial, which the policy counts itself


def embedding(config: PolicyConfig) -> nn.Sequential:
    """What takes the inputs of a step, (..., what `see` names), to the memory's width.

    Raises:
        ConfigError: for inputs to `see` that do not exist, and for an unknown `embed`.
    """
    unknown = set(config.see) - set(ALL_INPUTS)
    if unknown:
        raise ConfigError(f"see: {sorted(unknown)} are no inputs of a policy; there are {list(ALL_INPUTS)}")
    if config.embed not in ("linear", "mlp"):
        raise ConfigError(f"embed={config.embed!r} is neither linear nor mlp")
    size = config.hidden_size
    widths = {"observation": config.observation, "action": config.actions or config.action_size}
    width = sum(widths.get(name, 1) for name in ALL_INPUTS if name in config.see)
    deeper = [nn.Tanh(), nn.Linear(size, size)] if config.embed == "mlp" else []
    return nn.Sequential(nn.Linear(width, size), *deeper)


def shown_action(config: Any, action: Tensor, dtype: torch.dtype) -> Tensor:
    """(..., A) of actions as a policy sees them: one-hot where they are discrete; -1, none, has no bit."""
    if not config.actions:
        return action
    names = torch.arange(config.actions, device=action.device)
    return (action[..., None] == names).to(dtype)


def seen_vector(config: Any, seen: Inputs, time: Tensor, dtype: torch.dtype) -> Tensor:
    """(..., width) of what is to be embedded; `time` (...) are the steps since the start of the trial."""
    see, parts = config.see, []
    if "observation" in see:
        parts.append(seen["observation"])
    if "action" in see:
        parts.append(shown_action(config, seen["action"], dtype))
    parts += [seen[name][..., None].float() for name in ("reward", "done") if name in see]
    if "time" in see:
        parts.append(time[..., None].float() / config.horizon)
    return torch.cat(parts, -1)


class Encoder(nn.Module):
    """Embedding and memory: whole trials to features (B, T, H), or step by step from a state.

    Raises:
        ConfigError: for `separate_critic`: whoever builds on an encoder gives each head the one that it reads.
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        if config.separate_critic:
            raise ConfigError("separate_critic is an option of policies with a critic of values; leave it out here")
        self.config, self.embed = config, embedding(config)
        self.memory = make_memory(config.memory, config.hidden_size, **config.memory_options)

    def init_state(self, rows: int) -> tuple[Any, int]:
        """The memory at the start of `rows` trials, and the steps since."""
        return self.memory.init_state(rows), 0

    def step(self, seen: Inputs, state: tuple[Any, int]) -> tuple[Tensor, tuple[Any, int]]:
        """Inputs (B, ...) and the state, which is used up -> features (B, H) and the next state."""
        memory, time = state
        x = self._vector(seen, torch.full_like(seen["done"], time))
        out, memory = self.memory.embedded_step(self.embed, x, seen, memory)
        return out, (memory, time + 1)

    def fork(self, state: tuple[Any, int], rows: Tensor) -> tuple[Any, int]:
        """An independent state of some rows (indices, int64)."""
        return self.memory.fork(state[0], rows), state[1]

    def forward(self, inputs: Inputs) -> Tensor:
        """Whole trials (B, T, ...) -> features (B, T, H)."""
        steps = torch.arange(inputs["done"].shape[1], device=inputs["done"].device)
        return self.memory.embedded(self.embed, self._vector(inputs, steps.expand_as(inputs["done"])), inputs)

    def _vector(self, seen: Inputs, time: Tensor) -> Tensor:
        dtype = next(self.embed.parameters()).dtype
        return seen_vector(self.config, seen, time, dtype).to(dtype)
