"""The memory module for rare events: keys, values and ages; what is asked is answered by the nearest key.

    answer     V[n_1], n_1 the key of the highest cosine with the query q
    loss       max(0, q . K[n_b] - q . K[n_p] + alpha)    n_p the nearest key with the right value, n_b with a wrong one
    write      K[n_1] <- (q + K[n_1]) / |q + K[n_1]| where V[n_1] was right, else a new key with its value

Kaiser, Nachum, Roy & Bengio 2017, "Learning to remember rare events", 1703.03129, section 2.

Deviations: a task begins with an empty memory that holds its whole support set, so that no key grows too old and has to
go; the paper's memory lasts for the whole of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from classic_metarl.black_box.siamese import best_of_class
from classic_metarl.inner.task_networks import embed
from classic_metarl.trainers.few_shot import EpisodicLearner, FewShotTrainer, Set

MARGIN = 0.1
SHARPNESS = 10.0  # of the softmax that makes logits of cosines


class Memory(NamedTuple):
    """Of M tasks: keys (M, N, F) of length 1, values (M, N) int64, -1 where nothing is stored."""

    keys: Tensor
    values: Tensor


class RareEventsNetwork(EpisodicLearner):
    """An embedding, whose outputs are keys and queries."""

    def __init__(self, family: Any, args: Any) -> None:
        super().__init__(family)
        self.net = family.embedding(args.hidden, args.activation)

    def queries(self, x: Tensor) -> Tensor:
        """(M, n, F) of length 1."""
        return F.normalize(embed(self.net, x), dim=-1)

    def remember(self, support: Set) -> Memory:
        """The memory after the images of the support set, one after the other."""
        asked, labels = self.queries(support[0]), support[1]
        tasks, count = labels.shape
        keys: list[Tensor] = []
        values = torch.full((tasks, count), -1, device=labels.device)
        for t in range(count):
            query, label = asked[:, t], labels[:, t]
            merged = torch.zeros(tasks, dtype=torch.bool, device=labels.device)
            if keys:
                stored = torch.stack(keys, 1)
                cosine = torch.einsum("mnf,mf->mn", stored, query).masked_fill(values[:, :t] < 0, -torch.inf)
                nearest = cosine.argmax(1)
                merged = values.gather(1, nearest[:, None])[:, 0] == label
                hit = F.one_hot(nearest, t).to(query.dtype) * merged[:, None]
                new = F.normalize(stored + query[:, None], dim=-1)
                keys = list((hit[..., None] * new + (1 - hit[..., None]) * stored).unbind(1))
            keys.append(query)
            values[:, t] = torch.where(merged, -1, label)  # what was merged takes no place of its own
        return Memory(torch.stack(keys, 1), values)

    def cosines(self, memory: Memory, x: Tensor) -> Tensor:
        """(M, q, N) of queries x (M, q, ...) with the keys; -1, the least there is, where nothing is stored."""
        found = self.queries(x) @ memory.keys.mT
        return found.masked_fill((memory.values < 0)[:, None], -1.0)

    def answer(self, support: Set, x: Tensor) -> Tensor:
        memory = self.remember(support)
        return SHARPNESS * best_of_class(self.cosines(memory, x), memory.values, self.family.ways)  # type: ignore[attr-defined]

    def forward(self, stages: Sequence[Set], query: Set) -> Tensor:
        """(M, q) the margin loss."""
        memory = self.remember(stages[0])
        cosine = self.cosines(memory, query[0])
        right = (memory.values[:, None] == query[1][:, :, None]) & (memory.values >= 0)[:, None]
        positive = cosine.masked_fill(~right, -1.0).amax(-1)
        negative = cosine.masked_fill(right, -1.0).amax(-1)
        return (negative - positive + MARGIN).clamp(min=0)


class RareEventsTrainer(FewShotTrainer):
    """The memory module on image episodes."""

    @classmethod
    def build(cls, family: Any, args: Any) -> RareEventsNetwork:
        return RareEventsNetwork(family, args)
