"""Learners whose weights may differ by task: the same function for one set of weights and for M of them.

`forward(x)` is the ordinary module; `of_tasks(parameters, x)` runs M sets of weights (M, ...) on x (M, n, ...) as
batched products, without vmap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrt.errors import ConfigError, nearest

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh}


class OfTasks(Protocol):
    """What a module offers whose weights may differ by task."""

    def of_tasks(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        """M sets of weights (M, ...) on x (M, n, ...) -> (M, n, ...)."""


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
        self.features = sizes[-1]  # width of the output, where it serves as an embedding

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in), or images (..., C, S, S) with C S S = in, -> (..., out)."""
        x = self._rows(x)
        for i, layer in enumerate(self.layers):
            x = layer(ACTIVATIONS[self.activation](x) if i else x)
        return x

    def of_tasks(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        """M sets of weights, x (M, n, in) -> (M, n, out); weights without (M,) are shared by the tasks."""
        x = self._rows(x)
        for i in range(len(self.layers)):
            weight, bias = parameters[f"layers.{i}.weight"], parameters[f"layers.{i}.bias"]
            x = ACTIVATIONS[self.activation](x) if i else x
            shared = weight.ndim == 2
            x = F.linear(x, weight, bias) if shared else torch.baddbmm(bias[:, None], x, weight.mT)
        return x

    def _rows(self, x: Tensor) -> Tensor:
        return x if x.shape[-1] == self.layers[0].in_features else x.flatten(-3)

    @property
    def head(self) -> str:
        """The prefix of the last layer's names: what ANIL adapts."""
        return f"layers.{len(self.layers) - 1}."


class ConvNet(nn.Module):
    """Convolutions 3 x 3 of stride 2, each with batch normalisation and ReLU, and a linear head (Finn et al. 2017,
    1703.03400, section 5.2; Vinyals et al. 2016 pool instead).

    Normalisation always takes the statistics of the batch that it is given, as in the authors' code: queries of a task
    are classified together (transduction, worth some 3 points on miniImageNet).

    Args:
        channels: of the images. filters: of each convolution. size: pixels a side. outputs: logits; 0 leaves the head
            out, and the output is the flat features.
    """

    def __init__(self, channels: int, filters: Sequence[int], size: int, outputs: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise([channels, *filters]))
        self.scales = nn.ParameterList(torch.ones(width) for width in filters)
        self.shifts = nn.ParameterList(torch.zeros(width) for width in filters)
        for _ in filters:
            size = (size + 1) // 2
        self.features = filters[-1] * size**2
        self.classifier = nn.Linear(self.features, outputs) if outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """x (n, channels, size, size) -> (n, outputs)."""
        return self.of_tasks(dict(self.named_parameters()), x[None])[0]

    def of_tasks(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        """M sets of weights, x (M, n, channels, size, size) -> (M, n, outputs): tasks are groups of one convolution."""
        tasks = len(x)
        for i in range(len(self.convolutions)):
            weight, bias, scale, shift = (
                _each(parameters[name], tasks, fixed)
                for name, fixed in (
                    (f"convolutions.{i}.weight", 4),
                    (f"convolutions.{i}.bias", 1),
                    (f"scales.{i}", 1),
                    (f"shifts.{i}", 1),
                )
            )
            rows = x.transpose(0, 1).flatten(1, 2)  # (n, M C, S, S)
            y = F.conv2d(rows, weight.flatten(0, 1), bias.flatten(), stride=2, padding=1, groups=tasks)
            y = F.batch_norm(y, None, None, scale.flatten(), shift.flatten(), training=True)
            x = y.relu().unflatten(1, (tasks, -1)).transpose(0, 1)
        x = x.flatten(2)
        if self.classifier is None:
            return x
        weight, bias = _each(parameters["classifier.weight"], tasks, 2), _each(parameters["classifier.bias"], tasks, 1)
        return torch.baddbmm(bias[:, None], x, weight.mT)

    @property
    def head(self) -> str:
        """The prefix of the last layer's names."""
        return "classifier."


def embed(net: nn.Module, x: Tensor) -> Tensor:
    """(M, n, features) of x (M, n, ...) with weights that all tasks share; batch statistics are those of each task."""
    return of_tasks(net, dict(net.named_parameters()), x)


def of_tasks(net: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    """`net.of_tasks(parameters, x)`, of a network that has it."""
    return cast(OfTasks, net).of_tasks(parameters, x)


def _each(value: Tensor, tasks: int, fixed: int) -> Tensor:
    """(M, ...) of a parameter of `fixed` dimensions that the tasks may still share."""
    return value if value.ndim > fixed else value.expand(tasks, *value.shape)
