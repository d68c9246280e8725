"""A belief about a task as a diagonal Gaussian over a latent z: what PEARL, VariBAD and MAESN have in common.

    KL(N(m, s^2) || N(n, t^2)) = sum_i 1/2 (s_i^2 / t_i^2 + (m_i - n_i)^2 / t_i^2 - 1 - log(s_i^2 / t_i^2))
    prod_n N(m_n, s_n^2)  is proportional to  N(v sum_n m_n / s_n^2, v)       with 1 / v = sum_n 1 / s_n^2

Written out: `torch.distributions` checks and wraps at every step, and has no product.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Latent(NamedTuple):
    """N(mean, exp(log_variance)) over z, independent in every coordinate; both (..., d).

    A named tuple, so that an agent may keep it in its memory: `fork` picks its rows.
    """

    mean: Tensor
    log_variance: Tensor

    @classmethod
    def unit(cls, like: Tensor) -> Latent:
        """N(0, I), the prior, in the shape of `like` (..., d)."""
        return cls(torch.zeros_like(like), torch.zeros_like(like))

    @property
    def std(self) -> Tensor:
        """(..., d) standard deviations."""
        return (0.5 * self.log_variance).exp()

    def at(self, noise: Tensor) -> Tensor:
        """(..., d) z = mean + std noise, with gradients; `noise` broadcasts."""
        return self.mean + self.std * noise

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """(..., d) one draw, with gradients (reparameterised); from torch's own generator where none is given."""
        mean = self.mean
        return self.at(torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype))

    def log_prob(self, z: Tensor) -> Tensor:
        """(...) log density of z (..., d)."""
        away = ((z - self.mean) / self.std).square()
        return -(0.5 * away + 0.5 * self.log_variance + 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """(...) differential entropy in nats."""
        return 0.5 * (self.log_variance + math.log(2 * math.pi * math.e)).sum(-1)

    def kl(self, other: Latent) -> Tensor:
        """(...) KL(self || other)."""
        log_ratio = self.log_variance - other.log_variance
        away = (self.mean - other.mean).square() * (-other.log_variance).exp()
        return 0.5 * (away + log_ratio.exp() - 1 - log_ratio).sum(-1)

    def kl_unit(self) -> Tensor:
        """(...) KL(self || N(0, I))."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).sum(-1)


def product(factors: Latent, mask: Tensor | None = None, prior: bool = False) -> Latent:
    """The product of n factors (..., n, d), one Gaussian (..., d); it does not depend on their order.

    Args:
        mask: (..., n) bool: the factors that count. Rows without any are the unit prior.
        prior: N(0, I) is one more factor, as in Bayes' rule; without it the factors alone are multiplied, as in PEARL.
    """
    precision = (-factors.log_variance).exp()
    weighed = precision * factors.mean
    if mask is not None:
        precision, weighed = (torch.where(mask[..., None], value, 0.0) for value in (precision, weighed))
    total, weighed = precision.sum(-2) + float(prior), weighed.sum(-2)
    if mask is not None and not prior:
        total = torch.where(mask.any(-1)[..., None], total, 1.0)
    return Latent(weighed / total, -total.log())
