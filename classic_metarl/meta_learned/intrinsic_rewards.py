"""Learned intrinsic rewards: a reward beside the one that is paid, learned so that learning by both earns more.

    theta' = theta + alpha grad J_(ex + in)(theta)      policy gradient on r_ex + w r_eta(s, a)
    eta   <- eta + beta grad_eta J_ex(theta')           policy gradient on r_ex alone, of what theta' played next

Zheng, Oh & Singh 2018, 1804.06459, "On learning intrinsic rewards for policy gradient methods"; the mechanism is that
of `trainers/online_meta.py`. The intrinsic reward never enters J_ex: it lives by what it leads to.

Deviations: J_ex is estimated on the next sample, played by theta', instead of the same one under importance weights;
its baseline is the mean return of the batch at each step instead of a critic; plain gradient descent instead of PPO or
A2C; r_eta is the tanh of a network, or of a table where observations are one-hot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from classic_metarl.trainers.online_meta import (
    ActorCritic,
    OnlineAgent,
    OnlineConfig,
    OnlineMetaConfig,
    OnlineMetaTrainer,
    lambda_returns,
)
from mrt.trials import Trials


class IntrinsicReward(nn.Module):
    """r_eta(s, a) = tanh of a network's output a; it begins at 0."""

    def __init__(self, config: OnlineConfig) -> None:
        super().__init__()
        self.net = ActorCritic(config.observation, config.actions, config.hidden)

    def forward(self, observation: Tensor, actions: Tensor) -> Tensor:
        """(...,) rewards of actions (...,) at observations (..., D)."""
        return torch.tanh(self.net(observation)[0].gather(-1, actions[..., None])[..., 0])


class IntrinsicAgent(OnlineAgent):
    """An actor with the critic of both rewards, and its intrinsic reward."""

    eta: IntrinsicReward

    def make_eta(self, config: Any) -> nn.Module:
        return IntrinsicReward(config)


@dataclass
class IntrinsicConfig(OnlineMetaConfig):
    """Arguments of `IntrinsicTrainer`."""

    gamma: float = field(default=0.99, metadata={"help": "discount of both returns"})
    lam: float = field(default=1.0, metadata={"help": "lambda of the inner return"})
    weight: float = field(default=0.1, metadata={"help": "w, of the intrinsic reward; 0: none"})


class IntrinsicTrainer(OnlineMetaTrainer):
    """Policy gradient on both rewards, and their sum learned for the paid one."""

    args: IntrinsicConfig
    policy_class = IntrinsicAgent

    @classmethod
    def args_class(cls) -> type:
        return IntrinsicConfig

    def inner_loss(self, theta: Mapping[str, Tensor], trials: Trials) -> Tensor:
        model, mask, args = self.unwrapped, trials.mask, self.args
        seen = trials.inputs["observation"]
        own = torch.where(mask, model.eta(seen, trials.actions), 0.0)
        self.log_metric("intrinsic", float(own.detach().sum() / mask.sum()))
        logits, values = model.heads(theta, seen)
        returns = lambda_returns(trials, trials.rewards + args.weight * own, values.detach(), args.gamma, args.lam)
        logprobs, entropy = model.distribution.both(logits, trials.actions)
        actor = (returns - values.detach()) * logprobs + args.entropy * entropy
        each = 0.5 * args.value_weight * (returns - values).square() - args.policy_weight * actor
        return torch.where(mask, each, 0.0).sum() / mask.sum()

    def outer_loss(self, theta: Mapping[str, Tensor], trials: Trials) -> Tensor:
        model, mask = self.unwrapped, trials.mask
        logits, _ = model.heads(theta, trials.inputs["observation"])
        nothing = torch.zeros_like(trials.rewards)
        returns = lambda_returns(trials, trials.rewards, nothing, self.args.gamma, 1.0)
        there = mask.sum(0).clamp(min=1)
        advantage = returns - torch.where(mask, returns, 0.0).sum(0) / there
        gain = advantage * model.distribution.logprob(logits, trials.actions)
        return -torch.where(mask, gain, 0.0).sum() / mask.sum()
