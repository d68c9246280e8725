"""MELD, meta-RL from images via latent state models (Zhao, Nagabandi, Rakelly, Finn & Levine 2020, 2010.13957).

A task is a part of the hidden state that never changes, and the reward an observation of it: inferring the task and
inferring the state are one filter (section 4). Its model learns by the ELBO of whole trials, and soft actor-critic acts
on what it believes:

    model      max  E_q sum_t log p(o_t | z_t) + w log p(r_(t-1) | z_t) - KL(q(z_t | z_(t-1), ...) || p(z_t | ...))
    policy     soft actor-critic on the belief b_t: mean and log variance of q(z_t), z_(t-1) drawn     b_t held fixed

The model is that of `classic_metarl/trainers/latent_states.py`. No gradient of actor or critics reaches it. The belief
is kept over the ends of episodes and dies with the trial; so does the value: what is found out in an episode pays in
the next ones.

Pictures are drawn by `classic_metarl/problems/pictures.py`. In `classic_metarl/problems/linear_gaussian.py` the exact
filter is known: there the ELBO has to come to Kalman's log-likelihood (gate T39).

Deviations from the paper and its released code: the first step of a trial has a learned prior, by the networks of all
other steps (code: N(0, I)); one standard deviation for all rewards, learned; critics see the belief alone; the last
step of an episode leads to the first one of the next.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from classic_metarl.trainers.beliefs import mean_over_steps
from classic_metarl.trainers.latent_states import LatentStates
from mrt.control.agent import Choice, Seen
from mrt.control.encoder import INPUTS
from mrt.control.off_policy import SACConfig, SACPolicy, SACPolicyConfig, SACTrainer
from mrt.credit.targets import next_act
from mrt.errors import ConfigError
from mrt.optim.learners import Learner
from mrt.trials import Trials


class MELDPolicyConfig(SACPolicyConfig):
    """A SAC policy on beliefs, and the model: sizes of z1, z2 and its networks.

    Args:
        side: of the pictures that are observed; 0: vectors.
        observation_std: deviation of p(o | z) in every number; 0: learned.
    """

    model_type = "mrt-meld"

    def __init__(
        self,
        *shapes: int,
        first: int = 8,
        second: int = 32,
        model_size: int = 64,
        side: int = 0,
        observation_std: float = math.sqrt(0.1),
        **kwargs: Any,
    ) -> None:
        self.first, self.second, self.model_size = first, second, model_size
        self.side, self.observation_std = side, observation_std
        super().__init__(*shapes, **kwargs)


class Filter(NamedTuple):
    """The memory of B trials: z2 (B, d2) of the last step, and whether an action was taken in it (B,) bool."""

    z2: Tensor
    acted: Tensor


class MELDPolicy(SACPolicy):
    """Filters what it sees and earns through the model, one draw a step, and acts on the belief."""

    config_class = MELDPolicyConfig
    options = (*SACPolicy.options, "first", "second", "model_size", "side", "observation_std")

    def __init__(self, config: MELDPolicyConfig) -> None:
        super().__init__(config)
        self.states = LatentStates(config)
        self.post_init()

    @staticmethod
    def width(config: Any) -> int:
        """Actor and critics see the belief."""
        return 2 * (config.first + config.second)

    def init_state(self, rows: int) -> Any:
        z2 = self.states.begin(rows)
        return Filter(z2, torch.zeros(rows, dtype=torch.bool, device=z2.device))

    @torch.no_grad()
    def act(self, seen: Seen, state: Any, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        seen = {name: value.to(self.device) for name, value in seen.items()}
        states = self.states.step(*self.states.inputs(seen, state.acted), state.z2, generator)
        choice = super().act({"observation": states.belief}, None, greedy, generator)
        return choice._replace(state=Filter(states.z2, seen["done"] < 0.5))


@dataclass
class MELDConfig(SACConfig):
    """`batch_size` counts whole trials.

    Raises:
        ConfigError: for negative weights, and a step size that is none.
    """

    batch_size: int = 16
    model_rate: float = field(default=1e-3, metadata={"help": "step size of the model (Adam)"})
    reward_weight: float = field(default=1.0, metadata={"help": "w, weight of log p(r | z)"})
    kl_weight: float = field(default=1.0, metadata={"help": "weight of the divergence; 1 is the bound"})

    def __post_init__(self) -> None:
        if self.reward_weight < 0 or self.kl_weight < 0 or self.model_rate <= 0:
            raise ConfigError(
                f"reward_weight={self.reward_weight} and kl_weight={self.kl_weight} must not be negative, "
                f"model_rate={self.model_rate} above 0"
            )
        super().__post_init__()


class MELDTrainer(SACTrainer):
    """The ELBO for the model, SAC for the policy, both on the same trials."""

    args: MELDConfig
    policy_class = MELDPolicy

    @classmethod
    def args_class(cls) -> type:
        return MELDConfig

    def sample(self) -> dict[str, Any]:
        """Whole `trials`."""
        return {"trials": self.replay.rows(self.args.batch_size)}

    def stored(self, trials: Trials) -> Trials:
        """All that a policy sees."""
        inputs = {name: trials.inputs[name] for name in INPUTS}
        return dataclasses.replace(super().stored(trials), inputs=inputs)

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Minus the mean ELBO of a step, and SAC's losses on beliefs that are held fixed."""
        trials = batch["trials"]
        terms, belief = self.elbo(trials)
        for name, value in terms.items():
            self.log_metric(f"elbo/{name}", float(value.detach()))
        args, belief, acted = self.args, belief.detach(), trials.mask
        goes_on = next_act(acted, torch.ones_like(trials.rewards)) > 0
        own = {
            "observation": belief[acted],
            "action": trials.actions[acted],
            "reward": trials.rewards[acted],
            "next_observation": next_act(acted, belief)[acted],
            "terminated": ~goes_on[acted],  # nothing follows the end of a trial
        }
        model = args.kl_weight * terms["kl"] - terms["observation"] - args.reward_weight * terms["reward"]
        return super().losses(own) | {"model": model}

    def elbo(self, trials: Trials) -> tuple[dict[str, Tensor], Tensor]:
        """({observation, reward, kl}: means over the steps of trials (B, T), beliefs (B, T, W))."""
        acted, model = led_here(trials), self.policy.states
        states = model(trials.inputs, acted)
        terms = model.terms(states, trials.inputs, acted)
        return {name: mean_over_steps(value, trials) for name, value in terms.items()}, states.belief

    def learners(self) -> dict[str, Learner]:
        """SAC's, and the model's."""
        model = [parameter for parameter in self.policy.states.parameters() if parameter.requires_grad]
        return super().learners() | {"model": Learner(torch.optim.Adam(model, lr=self.args.model_rate, fused=True))}


def led_here(trials: Trials) -> Tensor:
    """(B, T) bool: the rows that an action led to; the others begin an episode."""
    return torch.cat([torch.zeros_like(trials.mask[:, :1]), trials.mask[:, :-1]], 1)
