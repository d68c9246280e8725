"""Meta-gradient RL: the return itself, its discount gamma and its lambda, is learned while the policy learns by it.

    L(theta, eta; tau) = mean_t  w/2 (g_eta - v(s_t))^2 - (g_eta - v(s_t)) log pi(a_t | s_t) - e H(pi(s_t))
    J'(theta'; tau')   = the same without the entropy, with a fixed reference eta' = (gamma', lambda')
    eta <- eta - beta dJ'/deta          through theta' = theta - alpha grad L, see `trainers/online_meta.py`

g_eta is the lambda-return; v inside of it and in the advantage counts as a constant, gamma and lambda do not.
Xu, van Hasselt & Silver 2018, 1805.09801, "Meta-gradient reinforcement learning".

A reward that comes late and without noise makes gamma grow; where what follows is noise alone, gamma falls, for a
return with that noise in it leads theta further away from the reference (gates E1).

Deviations: gamma and lambda are sigmoids of what is learned; theta is not conditioned on an embedding of eta, which
moves slowly here; plain gradient descent on theta instead of RMSProp; whole episodes instead of unrolls; the trace's
mu is 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from classic_metarl.trainers.online_meta import (
    OnlineAgent,
    OnlineConfig,
    OnlineMetaConfig,
    OnlineMetaTrainer,
    lambda_returns,
)
from mrt.errors import ConfigError
from mrt.trials import Trials


class ReturnConfig(OnlineConfig):
    """`OnlineConfig`, and where gamma and lambda begin, between 0 and 1."""

    model_type = "mrt-meta-gradient"

    def __init__(self, *args: Any, gamma: float = 0.9, lam: float = 0.9, **kwargs: Any) -> None:
        self.gamma, self.lam = gamma, lam
        super().__init__(*args, **kwargs)


class Return(nn.Module):
    """eta: what gamma and lambda are sigmoids of."""

    def __init__(self, gamma: float, lam: float) -> None:
        super().__init__()
        for name, value in (("gamma", gamma), ("lam", lam)):
            if not 0 < value < 1:
                raise ConfigError(f"policy.{name}={value} must lie between 0 and 1, or no gradient moves it")
        self.raw = nn.Parameter(torch.tensor([math.log(value / (1 - value)) for value in (gamma, lam)]))

    @property
    def gamma(self) -> Tensor:
        """The discount."""
        return torch.sigmoid(self.raw[0])

    @property
    def lam(self) -> Tensor:
        """Lambda."""
        return torch.sigmoid(self.raw[1])


class MetaGradientAgent(OnlineAgent):
    """An actor-critic, and the return it learns by."""

    config_class: type[Any] = ReturnConfig
    eta: Return

    def make_eta(self, config: Any) -> nn.Module:
        return Return(config.gamma, config.lam)


@dataclass
class MetaGradientConfig(OnlineMetaConfig):
    """Arguments of `MetaGradientTrainer`; the discount and lambda of the recipe's policy are where it begins."""

    reference_gamma: float = field(default=1.0, metadata={"help": "gamma' of the return that judges"})
    reference_lam: float = field(default=1.0, metadata={"help": "lambda' of the return that judges"})


class MetaGradientTrainer(OnlineMetaTrainer):
    """Gamma and lambda, online."""

    args: MetaGradientConfig
    policy_class = MetaGradientAgent

    @classmethod
    def args_class(cls) -> type:
        return MetaGradientConfig

    def inner_loss(self, theta: Mapping[str, Tensor], trials: Trials) -> Tensor:
        eta = self.unwrapped.eta
        self.log_metric("eta/gamma", float(eta.gamma.detach()))
        self.log_metric("eta/lambda", float(eta.lam.detach()))
        return self._loss(theta, trials, eta.gamma, eta.lam) - self.args.entropy * self._entropy(theta, trials)

    def outer_loss(self, theta: Mapping[str, Tensor], trials: Trials) -> Tensor:
        return self._loss(theta, trials, self.args.reference_gamma, self.args.reference_lam)

    def _loss(self, theta: Mapping[str, Tensor], trials: Trials, gamma: Tensor | float, lam: Tensor | float) -> Tensor:
        model, mask = self.unwrapped, trials.mask
        logits, values = model.heads(theta, trials.inputs["observation"])
        returns = lambda_returns(trials, trials.rewards, values.detach(), gamma, lam)
        actor = (returns - values.detach()) * model.distribution.logprob(logits, trials.actions)
        critic = 0.5 * (returns - values).square()
        each = self.args.value_weight * critic - self.args.policy_weight * actor
        return torch.where(mask, each, 0.0).sum() / mask.sum()

    def _entropy(self, theta: Mapping[str, Tensor], trials: Trials) -> Tensor:
        logits, _ = self.unwrapped.heads(theta, trials.inputs["observation"])
        entropy = self.unwrapped.distribution.entropy(logits)
        return torch.where(trials.mask, entropy, 0.0).sum() / trials.mask.sum()
