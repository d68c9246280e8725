"""Keys and values that are kept when a row has ended, and serve whoever asks about that row later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from mrt.kv_cache import GrowingLayer as GrowingLayer
from mrt.kv_cache import growing_cache as growing_cache


@dataclass(frozen=True)
class Kept:
    """Keys and values of one row that was sampled, a pair (heads, positions, width) a layer, without gaps."""

    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def length(self) -> int:
        """Positions."""
        return self.layers[0][0].shape[1]


def keep_row(cache: DynamicCache, row: int, positions: Tensor) -> Kept:
    """A copy of the keys and values of `row` at `positions` (indices into the cache)."""
    layers: list[Any] = list(cache.layers)
    return Kept(tuple((layer.keys[row][:, positions], layer.values[row][:, positions]) for layer in layers))


def join_rows(rows: Sequence[Kept]) -> tuple[DynamicCache, Tensor]:
    """One right-padded cache of these rows, and their lengths (rows,)."""
    lengths = torch.tensor([row.length for row in rows], device=rows[0].layers[0][0].device)
    width, layers = int(lengths.max()), []
    for one in range(len(rows[0].layers)):
        pair = []
        for which in (0, 1):
            first = rows[0].layers[one][which]
            joined = first.new_zeros(len(rows), first.shape[0], width, first.shape[2])
            for i, row in enumerate(rows):
                joined[i, :, : row.length] = row.layers[one][which]
            pair.append(joined)
        layers.append((pair[0], pair[1]))
    return growing_cache(layers), lengths


@dataclass
class State:
    """Rows in the middle of decoding: cache, which keys count (N, keys), the next position (N,) and the next logits (N,
    V).
    """

    cache: DynamicCache
    mask: Tensor
    position: Tensor
    logits: Tensor

    def repeat(self, n: int) -> None:
        if n > 1:
            self.cache.batch_repeat_interleave(n)
            self.mask, self.position, self.logits = (
                x.repeat_interleave(n, 0) for x in (self.mask, self.position, self.logits)
            )

    def select(self, keep: Tensor) -> None:
        self.cache.batch_select_indices(keep)
        self.mask, self.position, self.logits = self.mask[keep], self.position[keep], self.logits[keep]

    def advance(self, model: Any, token: Tensor) -> None:
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
        out = model(
            input_ids=token[:, None],
            attention_mask=self.mask.long(),
            position_ids=self.position[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache, self.logits, self.position = out.past_key_values, out.logits[:, -1], self.position + 1
