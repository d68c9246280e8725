"""Learners whose weights may differ by task: the same function for one set of weights and for M of them.

`forward(x)` is the ordinary module; `of_tasks(parameters, x)` runs M sets of weights (M, ...) on x (M, n, ...) as
batched products, without vmap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrt.errors import ConfigError, nearest

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh}


class MLP(nn.Module):
    """Fully connected layers, initialised as PyTorch does.

    Args:
        sizes: of input, hidden layers and output.
        activation: relu or tanh.
    """

    def __init__(self, sizes: Sequence[int], activation: str = "relu") -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ConfigError(f"activation={activation!r} is unknown; {nearest(activation, set(ACTIVATIONS))}")
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        for i, layer in enumerate(self.layers):
            x = layer(ACTIVATIONS[self.activation](x) if i else x)
        return x

    def of_tasks(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        """M sets of weights, x (M, n, in) -> (M, n, out); weights without (M,) are shared by the tasks."""
        for i in range(len(self.layers)):
            weight, bias = parameters[f"layers.{i}.weight"], parameters[f"layers.{i}.bias"]
            x = ACTIVATIONS[self.activation](x) if i else x
            shared = weight.ndim == 2
            x = F.linear(x, weight, bias) if shared else torch.baddbmm(bias[:, None], x, weight.mT)
        return x

    @property
    def head(self) -> str:
        """The prefix of the last layer's names: what ANIL adapts."""
        return f"layers.{len(self.layers) - 1}."
