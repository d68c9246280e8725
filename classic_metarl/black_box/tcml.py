"""SNAIL on few-shot classification (TCML in its first version): a sequence of labelled images, the query last.

    [Attention(64, 32), TC(NK + 1, 128), Attention(256, 128), TC(NK + 1, 128), Attention(512, 256)], then logits

Mishra, Rohaninejad, Chen & Abbeel 2018, 1707.03141, section 5.1 and appendix B.1; the blocks are those of
`classic_metarl.black_box.snail`.

Deviations: widths divided by `narrow`, for one CPU core; each query is a sequence of its own.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from classic_metarl.black_box.snail import AttentionBlock, DenseBlock
from classic_metarl.inner.task_networks import embed
from classic_metarl.problems.images import one_hot
from classic_metarl.trainers.few_shot import EpisodicLearner, FewShotTrainer, Set


class TCML(EpisodicLearner):
    """Embedding, temporal convolutions and attention."""

    def __init__(self, family: Any, args: Any, narrow: int = 4) -> None:
        super().__init__(family)
        self.net = family.embedding(args.hidden, args.activation)
        width, depth = self.net.features + family.ways, max(math.ceil(math.log2(family.shots + 1)), 1)
        self.blocks = nn.ModuleList()
        for keys, values, filters in ((64, 32, 128), (256, 128, 128), (512, 256, 0)):
            self.blocks.append(AttentionBlock(width, keys // narrow, values // narrow))
            width += values // narrow
            for i in range(depth if filters else 0):
                self.blocks.append(DenseBlock(width, filters // narrow, 2**i))
                width += filters // narrow
        self.out = nn.Linear(width, family.ways)

    def answer(self, support: Set, x: Tensor) -> Tensor:
        ways = self.family.ways  # type: ignore[attr-defined]
        images, queries = embed(self.net, support[0]), embed(self.net, x)
        tasks, n = queries.shape[:2]
        labelled = torch.cat([images, one_hot(support[1], ways)], -1)
        asked = torch.cat([queries, queries.new_zeros(tasks, n, ways)], -1)
        history = labelled[:, None].expand(-1, n, -1, -1)
        features = torch.cat([history, asked[:, :, None]], 2).flatten(0, 1)  # (M q, NK + 1, F + ways)
        for block in self.blocks:
            features = torch.cat([features, block(features)], -1)
        return self.out(features[:, -1]).unflatten(0, (tasks, n))


class TCMLTrainer(FewShotTrainer):
    """SNAIL on image episodes."""

    @classmethod
    def build(cls, family: Any, args: Any) -> TCML:
        return TCML(family, args)
