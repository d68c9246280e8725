"""Learning from what was played before: soft actor-critic (Haarnoja et al. 2018, 1812.05905) on a `Replay`.

One update draws transitions (s, a, r, s') and takes three steps, each learner by its own loss, all from the same
parameters, with a' and a~ drawn from the policy at s' and s:

    critics      sum_i 1/2 (Q_i(s, a) - y)^2                                             equations 5 and 6
                 y = r + gamma (1 - terminated) (min_i Q'_i(s', a') - alpha log pi(a'|s'))
    actor        alpha log pi(a~|s) - min_i Q_i(s, a~)                                   equations 7 to 9
    temperature  -alpha (log pi(a~|s) + target entropy)                                  equation 18

and then the targets follow, Q' <- (1 - tau) Q' + tau Q.

Deviations from the paper: trials are played whole (`mrt.control.replay_trainer`). An episode that the time limit ends
is bootstrapped.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from mrt.control.agent import Agent, Choice, Seen, Shape
from mrt.control.distributions import SquashedGaussian
from mrt.control.envs import Spec
from mrt.control.replay_trainer import OffPolicyConfig, OffPolicyTrainer, feed_forward
from mrt.errors import ConfigError
from mrt.optim.learners import Learner
from mrt.trials import Trials


class SACPolicyConfig(PreTrainedConfig):
    """Shapes as in `Spec`; networks of `layers` hidden layers of `hidden_size`; the temperature begins at `alpha`."""

    model_type = "mrt-sac"

    def __init__(
        self,
        observation: int = 1,
        action_size: int = 1,
        hidden_size: int = 256,
        layers: int = 2,
        alpha: float = 1.0,
        **kwargs: Any,
    ) -> None:
        self.observation, self.action_size = observation, action_size
        self.hidden_size, self.layers, self.alpha = hidden_size, layers, alpha
        super().__init__(**kwargs)


class SACPolicy(PreTrainedModel, Agent):
    """A squashed Gaussian over (-1, 1)^A, twin critics with their targets, and the log of the temperature.

    It sees the present observation alone and keeps no memory.
    """

    config_class: type[Any] = SACPolicyConfig
    base_model_prefix = "policy"
    main_input_name = "observation"
    options: tuple[str, ...] = ("hidden_size", "layers", "alpha")

    def __init__(self, config: SACPolicyConfig) -> None:
        super().__init__(config)
        sizes, width = [config.hidden_size] * config.layers, self.width(config)
        self.actor = feed_forward(width, *sizes, 2 * config.action_size)
        self.critics = nn.ModuleList(feed_forward(width + config.action_size, *sizes, 1) for _ in range(2))
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.alpha)))
        self.distribution = SquashedGaussian()
        self.shape = Shape(config.observation, 0, config.action_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Parts come initialised."""

    @staticmethod
    def width(config: Any) -> int:
        """Numbers that actor and critics see: those of an observation."""
        return config.observation

    @classmethod
    def for_spec(cls, spec: Spec, **options: Any) -> Any:
        """A fresh policy for an environment.

        Raises:
            ConfigError: for discrete actions, and for an option that there is none of.
        """
        if spec.actions:
            raise ConfigError(f"SAC needs continuous actions, this environment has {spec.actions} discrete ones")
        unknown = set(options) - set(cls.options)
        if unknown:
            raise ConfigError(f"policy has no option {sorted(unknown)}; there are {', '.join(cls.options)}")
        return cls(cls.config_class(spec.observation, spec.action_size, **options))

    def draw(self, observation: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """observation (B, D) -> actions (B, A) and their log-probabilities (B,), with gradients."""
        return self.distribution.draw(self.actor(observation), generator)

    def values(self, observation: Tensor, action: Tensor, target: bool = False) -> Tensor:
        """(2, B): both critics, or their targets, of observation (B, D) and action (B, A)."""
        x = torch.cat([observation, action], -1)
        return torch.stack([critic(x)[:, 0] for critic in (self.targets if target else self.critics)])

    def init_state(self, rows: int) -> Any:
        """No memory."""

    @torch.no_grad()
    def act(self, seen: Seen, state: Any, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        observation = seen["observation"].to(self.device)
        if greedy:
            actions = self.distribution.mode(self.actor(observation))
            logprobs = actions.new_zeros(len(actions))
        else:
            actions, logprobs = self.draw(observation, generator)
        return Choice(actions, logprobs, torch.full_like(logprobs, torch.nan), state)


@dataclass
class SACConfig(OffPolicyConfig):
    """Arguments of a `SACTrainer`."""

    target_entropy: float | None = field(
        default=None, metadata={"help": "of the policy; null for minus the action size"}
    )


class SACTrainer(OffPolicyTrainer):
    """Soft actor-critic.

    Args:
        model: a `SACPolicy`.
    """

    args: SACConfig
    policy_class: type[Any] = SACPolicy

    @classmethod
    def args_class(cls) -> type:
        return SACConfig

    def sample(self) -> dict[str, Tensor]:
        """Transitions of the replay."""
        return self.replay.steps(self.args.batch_size)

    def stored(self, trials: Trials) -> Trials:
        """The rest of what is recorded is not learned from."""
        inputs = {"observation": trials.inputs["observation"]}
        return dataclasses.replace(super().stored(trials), inputs=inputs)

    # Learning.

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The three losses; see the top of the module. Whatever made the observation learns from the critics' alone."""
        return self.sac_losses(self.policy, batch)

    def sac_losses(self, policy: SACPolicy, batch: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
        """Those of any `SACPolicy`; names of learners and logs begin with `prefix`."""
        args, observation, alpha = self.args, batch["observation"].detach(), policy.log_temperature.exp()
        entropy = -float(policy.config.action_size) if args.target_entropy is None else args.target_entropy
        with torch.no_grad():
            action, logprob = policy.draw(batch["next_observation"])
            after = policy.values(batch["next_observation"], action, target=True).amin(0) - alpha * logprob
            target = batch["reward"] + args.gamma * torch.where(batch["terminated"], 0.0, after)
        values = policy.values(batch["observation"], batch["action"])
        action, logprob = policy.draw(observation)
        gain = policy.values(observation, action).amin(0) - alpha.detach() * logprob
        self.log_metric(f"{prefix}q", float(values.detach().mean()))
        self.log_metric(f"{prefix}q_error", float((values.detach() - target).square().mean()))
        self.log_metric(f"{prefix}entropy", -float(logprob.detach().mean()))
        self.log_metric(f"{prefix}temperature", float(alpha.detach()))
        return {
            f"{prefix}critics": 0.5 * (values - target).square().mean(1).sum(),
            f"{prefix}actor": -gain.mean(),
            f"{prefix}temperature": -(alpha * (logprob.detach() + entropy)).mean(),
        }

    def learners(self) -> dict[str, Learner]:
        """Critics, actor and temperature; the targets follow each step of the critics."""
        return self.sac_learners(self.policy)

    def sac_learners(self, policy: SACPolicy, prefix: str = "") -> dict[str, Learner]:
        """Those of any `SACPolicy`, named as in `sac_losses`."""
        return {
            f"{prefix}critics": self.adam(policy.critics.parameters(), (policy.targets, policy.critics)),
            f"{prefix}actor": self.adam(policy.actor.parameters()),
            f"{prefix}temperature": self.adam([policy.log_temperature]),
        }
