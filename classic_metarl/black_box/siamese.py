"""Siamese networks: whether two images are of one class, by the distance of their embeddings.

    p(same | x, x') = sigma(sum_k alpha_k |f(x)_k - f(x')_k| + b)          cross-entropy over pairs

A query gets the label of the support image that it is most likely one with. Koch, Zemel & Salakhutdinov 2015, "Siamese
neural networks for one-shot image recognition".

Deviations: the pairs are those of a task's queries with its support images, weighted so that equal and unequal ones
count as much, where the paper draws pairs of all classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classic_metarl.inner.task_networks import embed
from classic_metarl.trainers.few_shot import EpisodicLearner, FewShotTrainer, Set


class SiameseNetwork(EpisodicLearner):
    """An embedding and the weights of its distances."""

    def __init__(self, family: Any, args: Any) -> None:
        super().__init__(family)
        self.net = family.embedding(args.hidden, args.activation)
        self.same = nn.Linear(self.net.features, 1)

    def pairs(self, support: Set, x: Tensor) -> Tensor:
        """(M, q, n) logits of "one class" for queries x (M, q, ...) and the n images of the support set."""
        ours, theirs = (torch.sigmoid(embed(self.net, images)) for images in (x, support[0]))
        return self.same((ours[:, :, None] - theirs[:, None]).abs())[..., 0]

    def answer(self, support: Set, x: Tensor) -> Tensor:
        return best_of_class(self.pairs(support, x), support[1], self.family.ways)  # type: ignore[attr-defined]

    def forward(self, stages: Sequence[Set], query: Set) -> Tensor:
        """(M, q) weighted cross-entropy of each query's pairs."""
        said = self.pairs(stages[0], query[0])
        same = (query[1][:, :, None] == stages[0][1][:, None]).to(said.dtype)
        weight = torch.where(same > 0, 0.5 / same.sum(-1, keepdim=True), 0.5 / (1 - same).sum(-1, keepdim=True))
        return (weight * F.binary_cross_entropy_with_logits(said, same, reduction="none")).sum(-1)


def best_of_class(values: Tensor, labels: Tensor, ways: int) -> Tensor:
    """(M, q, ways) the highest of values (M, q, n) among the support images of each label (M, n)."""
    other = labels[:, None] != torch.arange(ways, device=labels.device)[:, None]  # (M, ways, n)
    return values[:, :, None].masked_fill(other[:, None], -torch.inf).amax(-1)


class SiameseTrainer(FewShotTrainer):
    """Siamese networks on image episodes."""

    @classmethod
    def build(cls, family: Any, args: Any) -> SiameseNetwork:
        return SiameseNetwork(family, args)
