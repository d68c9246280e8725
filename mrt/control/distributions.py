"""What a policy's head means: a distribution over discrete actions, or over continuous ones in [-1, 1]^A.

A head gives `logits` (..., W); the functions here say what they mean. Written out, because
`torch.distributions` checks and broadcasts at every step, which costs more than acting does.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

LOG_STD = (-5.0, 1.0)  # bounds of a Gaussian head's log standard deviation
SQUASHED_LOG_STD = (-5.0, 2.0)  # of one whose actions are squashed: before the squashing more than all of [-1, 1]


class Distribution(Protocol):
    """Shapes are those of `logits` (..., W) without the last dimension, and with A behind for continuous actions."""

    def sample(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor: ...

    def mode(self, logits: Tensor) -> Tensor: ...

    def logprob(self, logits: Tensor, actions: Tensor) -> Tensor: ...

    def entropy(self, logits: Tensor) -> Tensor: ...

    def both(self, logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """`logprob` and `entropy`."""

    def kl(self, old: Tensor, new: Tensor) -> Tensor: ...


class Categorical:
    """W discrete actions, int64."""

    def sample(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Gumbel-max: argmax of logits - log(-log u)."""
        u = torch.rand(logits.shape, generator=generator, device=logits.device).clamp(min=1e-20)
        return (logits - torch.log(-torch.log(u))).argmax(-1)

    def mode(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    def logprob(self, logits: Tensor, actions: Tensor) -> Tensor:
        return _chosen(_logs(logits), actions)

    def entropy(self, logits: Tensor) -> Tensor:
        logs = _logs(logits)
        return -(logs.exp() * logs).sum(-1)

    def both(self, logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        logs = _logs(logits)
        return _chosen(logs, actions), -(logs.exp() * logs).sum(-1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """KL(old || new)."""
        before = old.log_softmax(-1)
        return (before.exp() * (before - new.log_softmax(-1))).sum(-1)


def _logs(logits: Tensor) -> Tensor:
    """log_softmax(-1), which torch's own kernel takes ten times as long for over a handful of actions."""
    shifted = logits - logits.detach().amax(-1, keepdim=True)
    return shifted - shifted.exp().sum(-1, keepdim=True).log()


def _chosen(logs: Tensor, actions: Tensor) -> Tensor:
    return logs.gather(-1, actions.clamp(min=0)[..., None])[..., 0]


class Gaussian:
    """Independent normal actions: `logits` are A means and A log standard deviations. The environment clips."""

    def _split(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = logits.chunk(2, -1)
        return mean, log_std.clamp(*LOG_STD)

    def sample(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean, log_std = self._split(logits)
        return mean + log_std.exp() * torch.randn(mean.shape, generator=generator, device=mean.device)

    def mode(self, logits: Tensor) -> Tensor:
        return self._split(logits)[0]

    def logprob(self, logits: Tensor, actions: Tensor) -> Tensor:
        mean, log_std = self._split(logits)
        z = (actions - mean) * torch.exp(-log_std)
        return (-0.5 * z.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, logits: Tensor) -> Tensor:
        return (self._split(logits)[1] + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def both(self, logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return self.logprob(logits, actions), self.entropy(logits)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """KL(old || new)."""
        (m0, s0), (m1, s1) = self._split(old), self._split(new)
        return (s1 - s0 + (torch.exp(2 * s0) + (m0 - m1).square()) / (2 * torch.exp(2 * s1)) - 0.5).sum(-1)


class SquashedGaussian:
    """tanh of independent normal numbers, in (-1, 1)^A; `logits` as those of `Gaussian`, before the squashing.

    Haarnoja et al. 2018 (1812.05905), appendix C. Neither its entropy nor the inverse of a saturated action has a
    stable form: actions come together with their log-probabilities.
    """

    def draw(self, logits: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Actions (..., A) and their log-probabilities (...), both differentiable in `logits` (reparameterised)."""
        mean, log_std = logits.chunk(2, -1)
        log_std = log_std.clamp(*SQUASHED_LOG_STD)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        raw = mean + log_std.exp() * noise
        slope = 2 * (math.log(2) - raw - F.softplus(-2 * raw))  # log(1 - tanh(raw)^2), without its overflow
        logprobs = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi) - slope
        return raw.tanh(), logprobs.sum(-1)

    def mode(self, logits: Tensor) -> Tensor:
        """tanh of the means."""
        return logits.chunk(2, -1)[0].tanh()
