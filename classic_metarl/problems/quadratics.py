"""Random quadratic functions, the family that a learned optimiser is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mrt.tasks import Task, generator


@dataclass(frozen=True)
class Quadratics:
    """p(f): W (D, D) and y (D,) standard normal."""

    dimensions: int = 10
    name: str = "quadratics"

    def sample(self, seed: int, index: int) -> Task:
        drawn = torch.randn(self.dimensions, self.dimensions + 1, generator=generator(seed, index))
        return Task(f"{seed}:{index}", {"matrix": drawn[:, :-1], "target": drawn[:, -1]})

    def batch(self, tasks: Sequence[Task]) -> tuple[Tensor, Tensor]:
        """W (M, D, D) and y (M, D)."""
        return torch.stack([t.data["matrix"] for t in tasks]), torch.stack([t.data["target"] for t in tasks])


def quadratic(matrix: Tensor, target: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """f (M,) and its gradient (M, D) at theta (M, D)."""
    residual = torch.einsum("mij,mj->mi", matrix, theta) - target
    return residual.square().sum(-1), 2 * torch.einsum("mij,mi->mj", matrix, residual)
