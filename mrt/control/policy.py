"""A policy over whole trials: it reads (observation, previous action, previous reward, done) and keeps its memory
across the episodes of a trial. RL2, SNAIL and a transformer that learns in context differ in their memory only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from mrt.control.agent import Agent, Choice, Seen, Shape
from mrt.control.distributions import Categorical, Distribution, Gaussian
from mrt.control.encoder import INPUTS, embedding, seen_vector
from mrt.control.envs.base import Spec
from mrt.control.memories import Inputs, make_memory
from mrt.errors import ConfigError


class Heads(NamedTuple):
    """What a policy says of each step: `logits` (..., W) of its distribution, `values` (...) of what is to come."""

    logits: Tensor
    values: Tensor


State = tuple[Any, Any, int]
"""The actor's memory, that of a critic of its own (or None), and the steps since the start of the trial."""


class PolicyConfig(PreTrainedConfig):
    """What a policy sees and what it is made of.

    Args:
        observation, actions, action_size: as in `Spec`.
        memory: gru | lstm | transformer | none, or a class as module:Class (`classic_metarl.black_box.snail:SNAIL`).
        memory_options: of that memory (`layers`, `heads`, `backbone`, ...).
        hidden_size: width of the embedding, of the memory and of the heads' input.
        separate_critic: the value head reads a memory of its own (as the baseline of RL2).
        see: which of observation, action, reward, done reach the policy; what is left out is an ablation. `time`, the
            steps since the start of the trial / `horizon`, is there for whoever asks (Wang et al. 2016).
        horizon: steps that `time` is counted in.
        embed: linear | mlp, how a step's inputs become the memory's.
    """

    model_type = "mrt-policy"

    def __init__(
        self,
        observation: int = 1,
        actions: int = 0,
        action_size: int = 0,
        *,
        memory: str = "gru",
        memory_options: Mapping[str, Any] | None = None,
        hidden_size: int = 64,
        separate_critic: bool = False,
        see: tuple[str, ...] | list[str] = INPUTS,
        embed: str = "linear",
        horizon: int = 100,
        **kwargs: Any,
    ) -> None:
        self.observation, self.actions, self.action_size = observation, actions, action_size
        self.memory, self.memory_options = memory, dict(memory_options or {})
        self.hidden_size, self.separate_critic = hidden_size, separate_critic
        self.see, self.embed, self.horizon = list(see), embed, horizon
        super().__init__(**kwargs)


def config_for(kind: type[Any], spec: Spec, options: Mapping[str, Any]) -> Any:
    """The configuration of a fresh policy for an environment.

    Raises:
        ConfigError: for an option that `kind` does not have.
    """
    known = kind().to_dict().keys() | {"memory_options"}
    for name in options:
        if name not in known:
            raise ConfigError(f"policy has no option '{name}'; there are memory, memory_options, hidden_size, ...")
    shape: dict[str, Any] = {
        "observation": spec.observation,
        "actions": spec.actions,
        "action_size": spec.action_size,
    }
    return kind(**shape, **{"horizon": spec.trial_steps, **options})


class ControlPolicy(PreTrainedModel, Agent):
    """Actor and critic over a memory. `save_pretrained`, `from_pretrained` and peft's adapters work as for any model.

    Raises:
        ConfigError: for an unknown memory, or inputs to `see` that do not exist.
    """

    config_class: type[Any] = PolicyConfig
    base_model_prefix = "policy"
    main_input_name = "inputs"
    _supports_sdpa = True
    value_mean: Tensor
    value_std: Tensor

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        size = config.hidden_size
        out = config.actions or 2 * config.action_size
        self.embed = embedding(config)
        self.memory = make_memory(config.memory, size, **config.memory_options)
        self.critic_memory = (
            make_memory(config.memory, size, **config.memory_options) if config.separate_critic else None
        )
        self.actor, self.critic = nn.Linear(size, out), nn.Linear(size, 1)
        with torch.no_grad():  # a first policy that prefers nothing, with a standard deviation of 1/e
            self.actor.weight.mul_(0.01)
            self.actor.bias.zero_()
            if not config.actions:
                self.actor.bias[config.action_size :] = -1.0
        # Mean and deviation of the returns that the critic has met: its head predicts in these units (PopArt).
        self.register_buffer("value_mean", torch.zeros(()))
        self.register_buffer("value_std", torch.ones(()))
        self.distribution: Distribution = Categorical() if config.actions else Gaussian()
        self.shape = Shape(config.observation, config.actions, config.action_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Parts come initialised; what transformers has to rebuild at loading (rotary tables) is its own business."""
        if not any(True for _ in module.parameters(recurse=False)):
            super()._init_weights(module)

    @classmethod
    def for_spec(cls, spec: Spec, **options: Any) -> ControlPolicy:
        """A fresh policy for an environment.

        Raises:
            ConfigError: for an option that the class's configuration does not have.
        """
        return cls(config_for(cls.config_class, spec, options))

    # Acting.

    def init_state(self, rows: int) -> State:
        """The memory at the start of `rows` trials."""
        critic = self.critic_memory.init_state(rows) if self.critic_memory is not None else None
        return self.memory.init_state(rows), critic, 0

    @torch.no_grad()
    def act(self, seen: Seen, state: State, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        """One step of all rows, drawn or greedy; the inputs may lie on another device."""
        if seen["done"].device != self.device:
            seen = {name: value.to(self.device) for name, value in seen.items()}
        heads, state = self.step(seen, state)
        logits, how = heads.logits, self.distribution
        actions = how.mode(logits) if greedy else how.sample(logits, generator)
        return Choice(actions, how.logprob(logits, actions), heads.values, state)

    def step(self, seen: Inputs, state: State) -> tuple[Heads, State]:
        """One step of all rows: inputs (B, ...) and the state, which is used up -> heads (B, ...), the next state."""
        x = self._inputs(seen, torch.full_like(seen["done"], state[2]) if "time" in self.config.see else seen["done"])
        out, mine = self.memory.embedded_step(self.embed, x, seen, state[0])
        read, theirs = out, None
        if self.critic_memory is not None:
            read, theirs = self.critic_memory.embedded_step(self.embed, x, seen, state[1])
        return Heads(self.actor(out), self._value(self.critic(read))), (mine, theirs, state[2] + 1)

    def fork(self, state: State, rows: Tensor) -> State:
        """An independent state of some rows (indices, int64), for branches and probes."""
        critic = self.critic_memory.fork(state[1], rows) if self.critic_memory is not None else None
        return self.memory.fork(state[0], rows), critic, state[2]

    # Learning.

    def forward(self, inputs: Inputs) -> Heads:
        """Whole trials at once: inputs (B, T, ...) -> heads (B, T, ...)."""
        steps = torch.arange(inputs["done"].shape[1], device=inputs["done"].device)
        x = self._inputs(inputs, steps.expand_as(inputs["done"]))
        out = self.memory.embedded(self.embed, x, inputs)
        read = out if self.critic_memory is None else self.critic_memory.embedded(self.embed, x, inputs)
        if (
            read is not out
            or not _turned(out)
            or type(self.actor) is not nn.Linear
            or type(self.critic) is not nn.Linear
        ):
            return Heads(self.actor(out), self._value(self.critic(read)))
        # Rows are the innermost dimension of what the memory returned: one product for both heads, and no copy.
        weight, bias = (
            torch.cat([self.actor.weight, self.critic.weight]),
            torch.cat([self.actor.bias, self.critic.bias]),
        )
        steps = out.permute(1, 2, 0)
        said = torch.baddbmm(bias[:, None], weight.expand(len(steps), -1, -1), steps).permute(2, 0, 1)
        return Heads(said[..., :-1], self._value(said[..., -1:]))

    @torch.no_grad()
    def rescale_values(self, mean: Tensor, std: Tensor) -> None:
        """New units for the critic, predictions unchanged (PopArt: van Hasselt et al. 2016, 1602.07714, equation 5).

        Without them returns of tens, say, fill the clipped gradient and leave the actor next to nothing. Under an
        adapter, or with a critic that is not trained, nothing happens.
        """
        if type(self.critic) is not nn.Linear or not self.critic.weight.requires_grad:
            return  # adapters are saved without the policy under them: its units stay what they were
        self.critic.weight.mul_(self.value_std / std)
        self.critic.bias.copy_((self.value_std * self.critic.bias + self.value_mean - mean) / std)
        self.value_mean.copy_(mean)
        self.value_std.copy_(std)

    def _value(self, said: Tensor) -> Tensor:
        return said[..., 0] * self.value_std + self.value_mean

    def _inputs(self, seen: Inputs, time: Tensor) -> Tensor:
        return seen_vector(self.config, seen, time, self.dtype)


def _turned(out: Tensor) -> bool:
    """Whether B is the innermost dimension of out (B, T, H) in memory."""
    return out.stride(0) == 1 and not out.is_contiguous()
