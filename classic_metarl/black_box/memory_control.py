"""Memory-based control with recurrent neural networks (Heess, Hunt, Lillicrap and Silver 2015, arXiv 1512.04455): RDPG
and RSVG(0), off-policy, from whole trials.

Actor and critic each read the history h_t = (o_1, a_1, ..., o_t) with a recurrent network of their own. An update draws
N whole trials of the replay and steps both by backpropagation through time (algorithm 1), all means over the steps of
the trials:

    critic    1/2 (Q(h_t, a_t) - y_t)^2        y_t = r_t + gamma Q'(h_(t+1), mu'(h_(t+1)))
    actor     dQ(h_t, a)/da at a = mu(h_t)  times  dmu(h_t)/dtheta                        RDPG

Q' and mu' are target networks that follow slowly; each reads the trial from its first step with a memory of its own. In
RSVG(0) the policy is stochastic and reparameterised, a = pi(h_t, nu) with nu ~ N(0, 1) drawn anew, in the target too:

    actor     dQ(h_t, a)/da at a = pi(h_t, nu)  times  dpi(h_t, nu)/dtheta                RSVG(0)

The history in Q(h_t, a) is what was played: the gradient reaches the actor through a alone.

Deviations: actions are squashed by tanh, and RDPG explores by Gaussian noise of deviation `noise` before the squashing
instead of a temporally correlated process. The history has the previous reward and the ends of episodes as well: a
memory spans the episodes of a trial, the value of a step goes on over them, and nothing follows the last one.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from classic_metarl.black_box.defaults import with_policy
from mrt.control.agent import Agent, Choice, Seen, Shape
from mrt.control.distributions import SquashedGaussian
from mrt.control.encoder import Encoder
from mrt.control.envs import EnvTasks, Spec
from mrt.control.memories import Inputs
from mrt.control.policy import PolicyConfig, config_for
from mrt.control.replay_trainer import OffPolicyConfig, OffPolicyTrainer, feed_forward
from mrt.credit.targets import one_step, without_free
from mrt.errors import ConfigError
from mrt.optim.learners import Learner
from mrt.runs.recipe import Recipe
from mrt.trials import Trials


class MemoryControlPolicyConfig(PolicyConfig):
    """As `PolicyConfig`, with `stochastic` for RSVG(0), and the `noise` that RDPG explores with otherwise."""

    model_type = "mrt-memory-control"

    def __init__(
        self,
        observation: int = 1,
        actions: int = 0,
        action_size: int = 0,
        *,
        memory: str = "lstm",
        stochastic: bool = False,
        noise: float = 0.3,
        **kwargs: Any,
    ) -> None:
        self.stochastic, self.noise = stochastic, noise
        super().__init__(observation, actions, action_size, memory=memory, **kwargs)


class HistoryActor(nn.Module):
    """History to the `logits` (..., 2 A) of a `SquashedGaussian`; the deviation is fixed where it is not learned."""

    def __init__(self, config: MemoryControlPolicyConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.encoder = Encoder(config)
        self.head = feed_forward(size, size, (1 + config.stochastic) * config.action_size)
        self.log_std = None if config.stochastic else math.log(config.noise)

    def forward(self, inputs: Inputs) -> Tensor:
        """Whole trials (B, T, ...) -> (B, T, 2 A)."""
        return self.logits(self.encoder(inputs))

    def logits(self, features: Tensor) -> Tensor:
        """Features (..., H) of the history -> (..., 2 A)."""
        said = self.head(features)
        return said if self.log_std is None else torch.cat([said, torch.full_like(said, self.log_std)], -1)


class HistoryCritic(nn.Module):
    """Q(h, a): the action enters behind the memory, so that other actions at the same history cost next to nothing."""

    def __init__(self, config: MemoryControlPolicyConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.encoder = Encoder(config)
        self.head = feed_forward(size + config.action_size, size, 1)

    def values(self, features: Tensor, action: Tensor) -> Tensor:
        """Features (..., H) of the history and actions (..., A) -> (...)."""
        return self.head(torch.cat([features, action.to(features.dtype)], -1))[..., 0]


class MemoryControlPolicy(PreTrainedModel, Agent):
    """Actor and critic with a memory each, and their targets."""

    config_class = MemoryControlPolicyConfig
    base_model_prefix = "policy"
    main_input_name = "inputs"

    def __init__(self, config: MemoryControlPolicyConfig) -> None:
        super().__init__(config)
        self.actor, self.critic = HistoryActor(config), HistoryCritic(config)
        followers = {"actor": copy.deepcopy(self.actor), "critic": copy.deepcopy(self.critic)}
        self.targets = nn.ModuleDict(followers).requires_grad_(False)
        self.distribution = SquashedGaussian()
        self.shape = Shape(config.observation, 0, config.action_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Parts come initialised."""

    @classmethod
    def for_spec(cls, spec: Spec, **options: Any) -> MemoryControlPolicy:
        """A fresh policy for an environment.

        Raises:
            ConfigError: for discrete actions, an unknown option, and a `noise` that is not above 0.
        """
        if spec.actions:
            raise ConfigError(
                f"memory-based control needs continuous actions, this environment has {spec.actions} discrete ones"
            )
        config = config_for(MemoryControlPolicyConfig, spec, options)
        if config.noise <= 0:
            raise ConfigError(f"noise={config.noise} must be above 0")
        return cls(config)

    @property
    def memory(self) -> nn.Module:
        """The actor's."""
        return self.actor.encoder.memory

    def init_state(self, rows: int) -> Any:
        return self.actor.encoder.init_state(rows)

    def fork(self, state: Any, rows: Tensor) -> Any:
        return self.actor.encoder.fork(state, rows)

    @torch.no_grad()
    def act(self, seen: Seen, state: Any, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        features, state = self.actor.encoder.step({name: value.to(self.device) for name, value in seen.items()}, state)
        logits = self.actor.logits(features)
        actions, logprobs = self.distribution.draw(logits, generator)
        if greedy:
            actions, logprobs = self.distribution.mode(logits), torch.zeros_like(logprobs)
        return Choice(actions, logprobs, torch.full_like(logprobs, torch.nan), state)

    def learned(self, logits: Tensor) -> Tensor:
        """The actions (..., A) that the critic judges, differentiable: mu(h), or pi(h, nu) with nu drawn here."""
        return self.distribution.draw(logits)[0] if self.config.stochastic else self.distribution.mode(logits)


@dataclass
class MemoryControlConfig(OffPolicyConfig):
    """`batch_size` counts whole trials. Adam, a gradient that is clipped, targets that follow slowly."""

    batch_size: int = 32
    updates_per_env_step: float = 0.1
    learning_rate: float = 1e-3
    tau: float = 0.01
    max_grad_norm: float = 10.0


class RDPGTrainer(OffPolicyTrainer):
    """Recurrent deterministic policy gradient."""

    args: MemoryControlConfig
    policy_class = MemoryControlPolicy
    stochastic = False

    def __init__(self, model: MemoryControlPolicy, args: MemoryControlConfig, tasks: EnvTasks, **kwargs: Any) -> None:
        if model.config.stochastic != self.stochastic:
            raise ConfigError(f"{type(self).__name__} needs a policy with stochastic: {str(self.stochastic).lower()}")
        super().__init__(model, args, tasks, **kwargs)

    @classmethod
    def args_class(cls) -> type:
        return MemoryControlConfig

    @classmethod
    def make_policy(cls, recipe: Recipe, tasks: EnvTasks) -> Any:
        return super().make_policy(with_policy(recipe, {"stochastic": cls.stochastic}), tasks)

    def learners(self) -> dict[str, Learner]:
        """Each target follows the steps of its own network."""
        policy = self.policy
        parts = {"critic": policy.critic, "actor": policy.actor}
        return {name: self.adam(part.parameters(), (policy.targets[name], part)) for name, part in parts.items()}

    def targets(self, trials: Trials) -> Tensor:
        """y (B, T): actor and critic of the targets read the whole trials anew."""
        policy, ahead = self.policy, self.policy.targets
        with torch.no_grad():
            action = policy.learned(ahead["actor"](trials.inputs))
            after = ahead["critic"].values(ahead["critic"].encoder(trials.inputs), action)
            counted = without_free(trials, self.tasks.env.spec.free_episodes)
            return one_step(counted, after, self.args.gamma)

    def losses(self, batch: Trials) -> dict[str, Tensor]:
        """Those of the critic and the actor; see the top of the module."""
        policy, target = self.policy, self.targets(batch)
        weight = batch.mask / batch.mask.sum()
        features = policy.critic.encoder(batch.inputs)
        values = policy.critic.values(features, batch.actions)
        gain = policy.critic.values(features, policy.learned(policy.actor(batch.inputs)))
        error = ((values - target).square() * weight).sum()
        self.log_metric("q", float((values.detach() * weight).sum()))
        self.log_metric("q_error", float(error.detach()))
        return {"critic": 0.5 * error, "actor": -(gain * weight).sum()}


class RSVGTrainer(RDPGTrainer):
    """Recurrent stochastic value gradient, RSVG(0)."""

    stochastic = True
