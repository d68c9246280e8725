"""Matching networks: a query is labelled by attention over the support set, in an embedding trained for that.

    p(y | x, S) = sum_i a(x, x_i) 1[y_i = y]        a = softmax over i of cosine(f(x), f(x_i))

Vinyals, Blundell, Lillicrap, Kavukcuoglu & Wierstra 2016, 1606.04080, section 2.1.

Deviations: without full context embeddings, one embedding f = g; the cosine is scaled by a learned
temperature, since cosines of at most 1 keep the softmax flat.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classic_metarl.inner.task_networks import embed
from classic_metarl.problems.images import one_hot
from classic_metarl.trainers.few_shot import EpisodicLearner, FewShotTrainer, Set


class MatchingNetwork(EpisodicLearner):
    """An embedding and the attention over support images."""

    def __init__(self, family: Any, args: Any) -> None:
        super().__init__(family)
        self.net = family.embedding(args.hidden, args.activation)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())

    def answer(self, support: Set, x: Tensor) -> Tensor:
        keys, queries = (F.normalize(embed(self.net, images), dim=-1) for images in (support[0], x))
        attention = (self.log_scale.exp() * queries @ keys.mT).softmax(-1)
        return (attention @ one_hot(support[1], self.family.ways)).clamp(min=1e-8).log()  # type: ignore[attr-defined]


class MatchingTrainer(FewShotTrainer):
    """Matching networks on image episodes."""

    @classmethod
    def build(cls, family: Any, args: Any) -> MatchingNetwork:
        return MatchingNetwork(family, args)
