"""Q-learners that are told the task in training: what DREAM and IMPORT share.

    f(task)                   what a learner makes of the task, of its features (`task_features`); privileged
    Q(x, a) = V + A - mean A  dueling heads (Wang et al. 2016, 1511.06581)
    y = r + gamma Q'(x', argmax_a Q(x', a))         double Q-learning (van Hasselt et al. 2016, 1509.06461)

Trials are played by the greedy policy with chance actions (`mrt.control.exploring`). In some of them, drawn by chance,
the policy is given f(task) in place of what it would have inferred.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from classic_metarl.black_box.defaults import with_policy
from classic_metarl.trainers.beliefs import TASK
from mrt.control.agent import Agent, Choice, Seen, Shape
from mrt.control.distributions import Categorical
from mrt.control.encoder import INPUTS, Encoder
from mrt.control.envs import EnvTasks, Spec
from mrt.control.exploring import Exploring
from mrt.control.memories import Inputs
from mrt.control.oracles.beliefs import task_features
from mrt.control.policy import PolicyConfig, config_for
from mrt.control.replay_trainer import OffPolicyConfig, OffPolicyTrainer, feed_forward
from mrt.errors import ConfigError
from mrt.runs.recipe import Recipe
from mrt.trials import Trials


class InformedPolicyConfig(PolicyConfig):
    """As `PolicyConfig`, with the task's embedding of `latent` numbers, and heads of `head_size` hidden units.

    Args:
        task_size: numbers of a task's features.
        free_episodes: first episodes of a trial that only explore.
    """

    model_type = "mrt-informed"

    def __init__(
        self,
        observation: int = 1,
        actions: int = 2,
        action_size: int = 0,
        *,
        latent: int = 16,
        head_size: int = 128,
        task_size: int = 1,
        free_episodes: int = 1,
        **kwargs: Any,
    ) -> None:
        self.latent, self.head_size, self.free_episodes = latent, head_size, free_episodes
        self.task_size = task_size
        super().__init__(observation, actions, action_size, **kwargs)


class TaskEmbedding(nn.Linear):
    """f: the features (..., D) of tasks to (..., latent), linear.

    Tasks whose features have length 1 begin as draws of N(0, I): from the first update on there is something to find
    out.
    """

    def __init__(self, config: InformedPolicyConfig) -> None:
        super().__init__(config.task_size, config.latent)

    def reset_parameters(self) -> None:
        """Weights from N(0, 1), no bias."""
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, task: Tensor) -> Tensor:
        return super().forward(task.to(self.weight.dtype))


class DuelingQ(nn.Module):
    """x (..., W) to Q (..., A) = V + A - mean A, behind `layers` hidden layers."""

    def __init__(self, width: int, size: int, actions: int, layers: int = 1) -> None:
        super().__init__()
        self.hidden = feed_forward(width, *[size] * layers)
        self.value, self.advantage = nn.Linear(size, 1), nn.Linear(size, actions)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hidden(x).relu()
        advantage = self.advantage(hidden)
        return self.value(hidden) + advantage - advantage.mean(-1, keepdim=True)


class History(nn.Module):
    """A memory of trials with a `head` on it: whole trials (B, T, ...) or step by step."""

    def __init__(self, config: InformedPolicyConfig, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = Encoder(config), head

    def forward(self, inputs: Inputs) -> Tensor:
        """Inputs (B, T, ...) -> (B, T, out)."""
        return self.head(self.encoder(inputs))

    def step(self, seen: Inputs, state: Any) -> tuple[Tensor, Any]:
        """Inputs (B, ...) and the state, which is used up -> (B, out) and the next state."""
        features, state = self.encoder.step(seen, state)
        return self.head(features), state


def values_on(head: nn.Module, observation: Tensor, z: Tensor) -> Tensor:
    """Q (..., A) of a head that acts on the observation (..., D) and z (..., latent)."""
    return head(torch.cat([observation.to(z.dtype), z], -1))


def double_q(values: Tensor, ahead: Tensor) -> Tensor:
    """(...) what the target network says (`ahead`, (..., A)) of the action that is best by `values` (..., A)."""
    return ahead.gather(-1, values.argmax(-1, keepdim=True))[..., 0]


def squared_error(values: Tensor, actions: Tensor, target: Tensor, acted: Tensor) -> Tensor:
    """Mean over the steps `acted` (...) of the squared TD error: Q (..., A) of the actions (...) beside its target."""
    taken = values.gather(-1, actions.clamp(min=0)[..., None])[..., 0]
    return torch.where(acted, taken - target, 0.0).square().sum() / acted.sum().clamp(min=1)


class InformedPolicy(PreTrainedModel, Agent):
    """Greedy in Q-values. A subclass gives `values_step` and states with `z` (B, latent) and `told` (B,) bool."""

    config_class: type[Any] = InformedPolicyConfig
    base_model_prefix = "policy"
    main_input_name = "inputs"
    _supports_sdpa = True
    targets: nn.ModuleDict

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.tasks = TaskEmbedding(config)
        self.distribution = Categorical()
        self.shape = Shape(config.observation, config.actions, 0)

    def _init_weights(self, module: nn.Module) -> None:
        """Parts come initialised."""

    @classmethod
    def for_spec(cls, spec: Spec, **options: Any) -> Any:
        """A fresh policy for an environment.

        Raises:
            ConfigError: for continuous actions, an environment without free episodes, and an option that there is none
                of.
        """
        if not spec.actions:
            raise ConfigError(f"{cls.__name__} needs discrete actions: its values are one for each")
        if not 0 < spec.free_episodes < spec.episodes:
            raise ConfigError(
                f"{cls.__name__} explores in free episodes and is paid in others; here {spec.free_episodes} of "
                f"{spec.episodes} episodes are free (dream-bus and dream-map have one of two)"
            )
        return cls(config_for(cls.config_class, spec, {"free_episodes": spec.free_episodes, **options}))

    def values_step(self, seen: Seen, state: Any) -> tuple[Tensor, Any]:
        """Q (B, A) of one step of all rows, and the next state; the state is used up."""
        raise NotImplementedError(f"{type(self).__name__} has to define values_step(seen, state)")

    @torch.no_grad()
    def step(self, seen: Seen, state: Any) -> tuple[Tensor, Any]:
        """Logits (B, A) of the greedy policy, 0 and minus infinity, and the next state."""
        values, state = self.values_step({name: value.to(self.device) for name, value in seen.items()}, state)
        best = values.argmax(-1, keepdim=True)
        return torch.full_like(values, -torch.inf).scatter(-1, best, 0.0), state

    def act(self, seen: Seen, state: Any, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        """The greedy action, whether draws are asked for or not."""
        logits, state = self.step(seen, state)
        zeros = torch.zeros_like(logits[:, 0])
        return Choice(logits.argmax(-1), zeros, torch.full_like(zeros, torch.nan), state, {"z": state.z})


class Told(Agent):
    """The policy in training: rows of `told` (B,) bool act on `z` (B, latent), the others on what they infer."""

    def __init__(self, policy: InformedPolicy, z: Tensor, told: Tensor) -> None:
        self.policy, self.z, self.told = policy, z, told
        self.shape, self.device, self.distribution = policy.shape, policy.device, policy.distribution

    def init_state(self, rows: int) -> Any:
        return self.policy.init_state(rows)._replace(z=self.z, told=self.told)

    def step(self, seen: Seen, state: Any) -> tuple[Tensor, Any]:
        """As the policy's own."""
        return self.policy.step(seen, state)

    def act(self, seen: Seen, state: Any, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        return self.policy.act(seen, state, greedy, generator)

    def fork(self, state: Any, rows: Tensor) -> Any:
        return self.policy.fork(state, rows)


@dataclass
class InformedConfig(OffPolicyConfig):
    """`batch_size` counts whole trials.

    Raises:
        ConfigError: for a share that is none, negative noise, and `epsilon_steps` below 1.
    """

    batch_size: int = 64
    updates_per_env_step: float = 0.05
    learning_rate: float = 1e-3
    tau: float = 0.01
    max_grad_norm: float = 10.0
    told: float = field(default=0.5, metadata={"help": "share of training trials played on f(task)"})
    noise: float = field(default=0.1, metadata={"help": "deviation of the noise on f(task)"})
    epsilon: float = field(default=1.0, metadata={"help": "highest share of chance actions after the random play"})
    epsilon_end: float = field(default=0.05, metadata={"help": "it falls linearly to this"})
    epsilon_steps: int = field(default=250_000, metadata={"help": "environment steps that it takes to fall"})

    def __post_init__(self) -> None:
        for name in ("told", "epsilon", "epsilon_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be between 0 and 1")
        if self.noise < 0 or self.epsilon_steps < 1:
            raise ConfigError(
                f"noise={self.noise} must not be negative, and epsilon_steps={self.epsilon_steps} must be at least 1"
            )
        super().__post_init__()


class TaskFeatures(OffPolicyTrainer):
    """Learners are told the features of the tasks that they train on; the policy's `task_size` counts them."""

    told = (TASK,)

    @classmethod
    def make_policy(cls, recipe: Recipe, tasks: EnvTasks) -> Any:
        width = task_features(tasks.env, tasks.batch(recipe.seed, [0])).shape[1]
        return super().make_policy(with_policy(recipe, {"task_size": width}), tasks)

    def known(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {TASK: task_features(self.tasks.env, params)}


class InformedTrainer(TaskFeatures):
    """Whole trials with the tasks that they were played on. A subclass gives `losses` and `learners`."""

    args: InformedConfig
    policy_class: type[Any] = InformedPolicy

    @classmethod
    def args_class(cls) -> type:
        return InformedConfig

    def player_on(self, known: Mapping[str, Tensor]) -> Agent:
        """The policy with chance actions, told the task in a share of the trials."""
        args, policy, task = self.args, self.policy, known[TASK]
        done = min((self.played - args.random_steps) / args.epsilon_steps, 1.0)
        told = torch.rand(len(task), device=policy.device) < args.told
        with torch.no_grad():
            z = self.noisy(policy.tasks(task))
        return Exploring(Told(policy, z, told), args.epsilon + (args.epsilon_end - args.epsilon) * done)

    def noisy(self, embedded: Tensor) -> Tensor:
        """f(task) as it is given to who acts: with noise."""
        return embedded + self.args.noise * torch.randn_like(embedded)

    def stored(self, trials: Trials) -> Trials:
        """What is learned from: the inputs of a policy alone."""
        inputs = {name: trials.inputs[name] for name in INPUTS}
        return dataclasses.replace(super().stored(trials), inputs=inputs)

    def task_of(self, trials: Trials) -> Tensor:
        """(B, D) the features of the tasks of stored trials, which stand with every step."""
        return trials.privileged[TASK][:, 0]
