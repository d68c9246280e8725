"""Nearest neighbour: the label of the support image that is closest. Nothing is trained; a row of every table.

    y(x) = y_i, i = argmin |g(x) - g(x_i)|      g the pixels, or the features of a trained network

The baseline of Vinyals et al. 2016, 1606.04080, table 1 ("pixels", "baseline classifier").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from classic_metarl.trainers.few_shot import EpisodicLearner, Set


class NearestNeighbour(EpisodicLearner):
    """Euclidean distance between pixels, or between what `features` (M, n, ...) -> (M, n, F) makes of them."""

    def __init__(self, family: Any, features: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__(family)
        self.features = features or (lambda x: x.flatten(2))

    def answer(self, support: Set, x: Tensor) -> Tensor:
        distance = torch.cdist(self.features(x), self.features(support[0]))
        ways = self.family.ways  # type: ignore[attr-defined]
        other = support[1][:, None] != torch.arange(ways, device=x.device)[:, None]  # (M, ways, n)
        return -distance[:, :, None].masked_fill(other[:, None], torch.inf).amin(-1)
