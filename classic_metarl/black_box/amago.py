"""An off-policy agent that learns in context, after AMAGO (Grigsby, Fan and Zhu 2023, arXiv 2310.09971).

One sequence model reads whole trials; actor and critics are heads on its output s_t, and one loss trains all of it:

    c1 sum_i (Q_i(s_t, a_t) - y_t)^2  -  c2 E_(a ~ pi)[min_i Q_i(s_t, a)]  -  c3 1{A(s_t, a_t) > 0} log pi(a_t | s_t)
    y_t = r_t + gamma E_(a' ~ pi')[min over some i of Q'_i(s_(t+1), a')]
    A(s, a) = mean_i Q_i(s, a) - E_(a' ~ pi)[mean_i Q_i(s, a')]

for several discounts gamma at once, each with an output of its own in every head; the agent acts by that of the largest
horizon. The last term is behaviour cloning of what was better than the policy. In the second one the critics and s_t
below them are constants. Targets Q' and pi' are heads that follow slowly, on the same s_t. Values are learned in units
of each discount that follow the targets (PopArt, `rescale`).

Actions are discrete: expectations over pi are sums. Settings by default are those of the released code (version 3):
c1 = 10, c2 = 1, c3 = 0.1, four critics of which two make a target, gamma 0.999 beside 0.1 to 0.995, tau 0.003; rows
explore by chance with probabilities of their own, U[0, epsilon], and epsilon falls as steps are played.

Deviations: heads have one hidden layer instead of two; the critics of a target are drawn once an update; goals are not
relabelled in hindsight; trials are learned from whole, so that the context is the trial.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from classic_metarl.black_box.defaults import with_policy
from mrt.control.agent import Agent, Choice, Seen, Shape
from mrt.control.distributions import Categorical
from mrt.control.encoder import Encoder
from mrt.control.envs import EnvTasks, Spec
from mrt.control.exploring import Exploring
from mrt.control.policy import PolicyConfig, config_for
from mrt.control.replay_trainer import OffPolicyConfig, OffPolicyTrainer, feed_forward
from mrt.credit.targets import one_step, without_free
from mrt.errors import ConfigError
from mrt.optim.learners import Learner
from mrt.runs.recipe import Recipe
from mrt.trials import Trials

DISCOUNTS = (0.1, 0.9, 0.95, 0.97, 0.99, 0.995)


class AMAGOPolicyConfig(PolicyConfig):
    """As `PolicyConfig`, with `critics` of `head_size` hidden units and as many `horizons` as there are discounts."""

    model_type = "mrt-amago"

    def __init__(
        self,
        observation: int = 1,
        actions: int = 2,
        action_size: int = 0,
        *,
        memory: str = "transformer",
        embed: str = "mlp",
        critics: int = 4,
        horizons: int = 1,
        head_size: int = 128,
        **kwargs: Any,
    ) -> None:
        self.critics, self.horizons, self.head_size = critics, horizons, head_size
        super().__init__(observation, actions, action_size, memory=memory, embed=embed, **kwargs)


class Ensemble(nn.Module):
    """N critics side by side: s (..., H) to Q (..., N, G, A) of every action, in units of each discount."""

    def __init__(self, config: AMAGOPolicyConfig) -> None:
        super().__init__()
        self.shape = (config.horizons, config.actions)
        count, size, out = config.critics, config.head_size, config.horizons * config.actions
        self.hidden = nn.Linear(config.hidden_size, count * size)
        self.weight = nn.Parameter(torch.empty(count, out, size).uniform_(-(size**-0.5), size**-0.5))
        self.bias = nn.Parameter(torch.zeros(count, out))

    def forward(self, state: Tensor) -> Tensor:
        hidden = F.relu(self.hidden(state)).unflatten(-1, (len(self.weight), -1))
        said = torch.einsum("...nw,now->...no", hidden, self.weight) + self.bias
        return said.unflatten(-1, self.shape)

    @torch.no_grad()
    def rescale(self, scale: Tensor, shift: Tensor) -> None:
        """Outputs times `scale` plus `shift`, (G,) each."""
        each = (part.repeat_interleave(self.shape[1]) for part in (scale, shift))
        scale, shift = each
        self.weight.mul_(scale[:, None])
        self.bias.mul_(scale).add_(shift)


class AMAGOPolicy(PreTrainedModel, Agent):
    """A sequence model with an actor and an ensemble of critics on top, and the heads' targets."""

    config_class = AMAGOPolicyConfig
    base_model_prefix = "policy"
    main_input_name = "inputs"
    _supports_sdpa = True
    value_mean: Tensor
    value_std: Tensor

    def __init__(self, config: AMAGOPolicyConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.actor = feed_forward(config.hidden_size, config.head_size, config.horizons * config.actions)
        self.critics = Ensemble(config)
        followers = {"actor": copy.deepcopy(self.actor), "critics": copy.deepcopy(self.critics)}
        self.targets = nn.ModuleDict(followers).requires_grad_(False)
        for name, value in (("value_mean", 0.0), ("value_std", 1.0)):  # of the targets of each discount
            self.register_buffer(name, torch.full((config.horizons,), value))
        self.distribution = Categorical()
        self.shape = Shape(config.observation, config.actions, 0)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Parts come initialised."""

    @classmethod
    def for_spec(cls, spec: Spec, **options: Any) -> AMAGOPolicy:
        """A fresh policy for an environment.

        Raises:
            ConfigError: for continuous actions, and an option that there is none of.
        """
        if not spec.actions:
            raise ConfigError("this agent needs discrete actions; for continuous ones take memory_control:RDPGTrainer")
        return cls(config_for(AMAGOPolicyConfig, spec, options))

    @property
    def memory(self) -> nn.Module:
        """The sequence model."""
        return self.encoder.memory

    # Acting.

    def init_state(self, rows: int) -> Any:
        return self.encoder.init_state(rows)

    def fork(self, state: Any, rows: Tensor) -> Any:
        return self.encoder.fork(state, rows)

    @torch.no_grad()
    def step(self, seen: Seen, state: Any) -> tuple[Tensor, Any]:
        """Logits (B, A) of the largest horizon, and the next state."""
        features, state = self.encoder.step({name: value.to(self.device) for name, value in seen.items()}, state)
        return self.logits(self.actor, features)[:, -1], state

    def act(self, seen: Seen, state: Any, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        logits, state = self.step(seen, state)
        actions = self.distribution.mode(logits) if greedy else self.distribution.sample(logits, generator)
        logprobs = self.distribution.logprob(logits, actions)
        return Choice(actions, logprobs, torch.full_like(logprobs, torch.nan), state)

    # Learning.

    def logits(self, actor: nn.Module, features: Tensor) -> Tensor:
        """(..., G, A) of the actor, or of its target."""
        return actor(features).unflatten(-1, (self.config.horizons, self.config.actions))

    @torch.no_grad()
    def rescale(self, mean: Tensor, std: Tensor) -> None:
        """New units (G,) for the critics and their targets, predictions unchanged (van Hasselt et al. 2016, PopArt)."""
        scale, shift = self.value_std / std, (self.value_mean - mean) / std
        for critics in (self.critics, self.targets["critics"]):
            ensemble: Any = critics
            ensemble.rescale(scale, shift)
        self.value_mean.copy_(mean)
        self.value_std.copy_(std)


@dataclass
class AMAGOConfig(OffPolicyConfig):
    """The released settings. `batch_size` counts whole trials; `gamma` is the discount that the agent acts by."""

    batch_size: int = 24
    updates_per_env_step: float = 0.1
    learning_rate: float = 3e-4
    gamma: float = 0.999
    tau: float = 0.003
    max_grad_norm: float = 1.0
    gammas: list[float] = field(
        default_factory=lambda: list(DISCOUNTS), metadata={"help": "further discounts that are learned beside"}
    )
    target_critics: int = field(default=2, metadata={"help": "critics whose minimum makes a target"})
    critic_weight: float = field(default=10.0, metadata={"help": "weight of the critics' squared error"})
    online_weight: float = field(default=1.0, metadata={"help": "weight of the policy's value under the critics"})
    offline_weight: float = field(default=0.1, metadata={"help": "weight of the filtered behaviour cloning"})
    epsilon: float = field(default=1.0, metadata={"help": "highest share of chance actions after the random play"})
    epsilon_end: float = field(default=0.05, metadata={"help": "it falls linearly to this"})
    epsilon_steps: int = field(default=100_000, metadata={"help": "environment steps that it takes to fall"})
    units: float = field(default=0.01, metadata={"help": "how far the critics' units follow an update's targets"})

    def __post_init__(self) -> None:
        if not all(0 <= gamma <= 1 for gamma in (*self.gammas, self.gamma)):
            raise ConfigError(f"gammas={self.gammas}, gamma={self.gamma}: discounts are between 0 and 1")
        if self.target_critics < 1 or self.epsilon_steps < 1:
            raise ConfigError(
                f"target_critics={self.target_critics} and epsilon_steps={self.epsilon_steps} must be at least 1"
            )
        super().__post_init__()


class AMAGOTrainer(OffPolicyTrainer):
    """The in-context agent; see the top of the module.

    Raises:
        ConfigError: for a policy with other numbers of discounts or critics than the arguments ask for.
    """

    args: AMAGOConfig
    policy_class = AMAGOPolicy

    def __init__(self, model: AMAGOPolicy, args: AMAGOConfig, tasks: EnvTasks, **kwargs: Any) -> None:
        horizons, critics = model.config.horizons, model.config.critics
        if horizons != 1 + len(args.gammas) or critics < args.target_critics:
            raise ConfigError(
                f"the policy has {horizons} horizons and {critics} critics; gammas={args.gammas} and gamma make "
                f"{1 + len(args.gammas)}, and target_critics={args.target_critics} of the critics make a target"
            )
        super().__init__(model, args, tasks, **kwargs)
        self._gammas = torch.tensor([*args.gammas, args.gamma], device=args.device)

    @classmethod
    def args_class(cls) -> type:
        return AMAGOConfig

    @classmethod
    def make_policy(cls, recipe: Recipe, tasks: EnvTasks) -> Any:
        others: Sequence[float] = recipe.args.get("gammas", DISCOUNTS)
        return super().make_policy(with_policy(recipe, {"horizons": 1 + len(others)}), tasks)

    def player(self) -> Agent:
        args = self.args
        done = min((self.played - args.random_steps) / args.epsilon_steps, 1.0)
        return Exploring(self.policy, args.epsilon + (args.epsilon_end - args.epsilon) * done)

    def learners(self) -> dict[str, Learner]:
        """One for everything; the heads' targets follow its steps."""
        policy = self.policy
        pairs = ((policy.targets[name], getattr(policy, name)) for name in ("actor", "critics"))
        return {"agent": self.adam([p for p in policy.parameters() if p.requires_grad], *pairs)}

    @torch.no_grad()
    def targets(self, trials: Trials, features: Tensor) -> Tensor:
        """y (B, T, G), in the rewards' own units."""
        policy = self.policy
        chance = policy.logits(policy.targets["actor"], features).softmax(-1)
        values = (policy.targets["critics"](features) * chance[..., None, :, :]).sum(-1)
        some = torch.randperm(policy.config.critics, device=values.device)[: self.args.target_critics]
        after = values[:, :, some].amin(2) * policy.value_std + policy.value_mean
        counted = without_free(trials, self.tasks.env.spec.free_episodes)
        return one_step(counted, after, self._gammas.to(after.dtype))

    def follow_units(self, targets: Tensor) -> None:
        """The critics' units follow mean and deviation of targets (N, G); the first step of training sets them."""
        policy, rate = self.policy, self.args.units if self.state.global_step else 1.0
        mean, square = targets.mean(0), targets.square().mean(0)
        mean = (1 - rate) * policy.value_mean + rate * mean
        square = (1 - rate) * (policy.value_std.square() + policy.value_mean.square()) + rate * square
        policy.rescale(mean, (square - mean.square()).clamp(min=1e-4).sqrt())

    def losses(self, batch: Trials) -> dict[str, Tensor]:
        """The one loss, over the steps in `mask`."""
        policy, args, mask = self.policy, self.args, batch.mask
        features = policy.encoder(batch.inputs)
        target = self.targets(batch, features)
        self.follow_units(target[mask])
        goal = (target[mask] - policy.value_mean) / policy.value_std  # (N, G)
        critic, online, cloning = head_losses(policy, features[mask], batch.actions[mask], goal)
        for name, value in (("critic_loss", critic), ("online", online), ("cloning", cloning)):
            self.log_metric(name, float(value.detach()))
        return {"agent": args.critic_weight * critic + args.online_weight * online + args.offline_weight * cloning}


def head_losses(policy: AMAGOPolicy, features: Tensor, actions: Tensor, goal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Critics' squared error, minus the policy's value, and filtered cloning: means over N steps and G discounts.

    Args:
        features: (N, H) of the sequence model, with gradients.
        actions: (N,) what was done.
        goal: (N, G) targets in the critics' units.
    """
    values = policy.critics(features)  # (N, critics, G, A)
    logs = policy.logits(policy.actor, features).log_softmax(-1)
    chance, known = logs.exp(), values.detach()
    chosen = actions[:, None, None].expand(-1, goal.shape[1], 1)
    taken = values.gather(-1, chosen[:, None].expand(-1, values.shape[1], -1, -1))[..., 0]
    online = -(chance[:, None] * known).sum(-1).amin(1).mean()
    expected = (chance.detach() * known.mean(1)).sum(-1)
    better = taken.detach().mean(1) > expected
    cloning = -(better * logs.gather(-1, chosen)[..., 0]).mean()
    return (taken - goal[:, None]).square().mean(), online, cloning
