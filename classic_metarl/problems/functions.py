"""Quadratic functions of two variables, read one example at a time: the problem of Hochreiter et al. 2001.

    f(x) = a x1^2 + b x2^2 + c x1 x2 + d x1 + e x2 + f,   coefficients ~ U[-1, 1],  x ~ U[-1, 1]^2

The label of an example is shown after the prediction is made. What a learner can be held to is the best linear
estimate from the examples before (coefficients of mean 0 and variance 1/3, no noise), whose squared error is exact:
0.726, 0.43, 0.30, 0.19, 0.14, 0.06 after 0 to 5 examples, and 0 from the sixth on. A learner that is better than 0.72
on the first example has seen its label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mrt.errors import ConfigError
from mrt.tasks import Task, uniforms

TERMS = 6
VARIANCE = 1 / 3  # of a coefficient


@dataclass(frozen=True)
class QuadraticFunctions:
    """p(f). `examples`: T, how many are read of one function.

    Raises:
        ConfigError: for no examples.
    """

    examples: int = 12
    name: str = "quadratic-functions"

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise ConfigError(f"{self.name}: examples={self.examples} must be at least 1")

    def sample(self, seed: int, index: int) -> Task:
        """Function `index` of `seed`: x (T, 2) and y (T, 1)."""
        x, y = self.draw(seed, [index])
        return Task(f"{seed}:{index}", {"x": x[0], "y": y[0]})

    def draw(self, seed: int, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Places x (M, T, 2) and labels y (M, T, 1) of the functions at `indices`."""
        u = 2 * uniforms(seed, indices, TERMS + 2 * self.examples) - 1
        x = u[:, TERMS:].unflatten(1, (self.examples, 2))
        return x, (terms(x) * u[:, None, :TERMS]).sum(-1, keepdim=True)


def terms(x: Tensor) -> Tensor:
    """(..., 6) the terms of the functions at x (..., 2)."""
    x1, x2 = x.unbind(-1)
    return torch.stack([x1 * x1, x2 * x2, x1 * x2, x1, x2, torch.ones_like(x1)], -1)


def best_linear_errors(x: Tensor) -> Tensor:
    """(M, T) expected squared error, at each of x (M, T, 2), of the best linear estimate from the examples before.

    The covariance of the coefficients loses, with every example, what that example tells (no noise: a Kalman filter).
    """
    seen = terms(x.double())
    covariance = VARIANCE * torch.eye(TERMS, dtype=torch.float64).expand(len(x), TERMS, TERMS)
    errors = []
    for t in range(x.shape[1]):
        gain = torch.einsum("mij,mj->mi", covariance, seen[:, t])
        error = (gain * seen[:, t]).sum(-1)
        errors.append(error.clamp(min=0))
        covariance = covariance - gain[:, :, None] * gain[:, None] / error.clamp(min=1e-12)[:, None, None]
    return torch.stack(errors, 1)
