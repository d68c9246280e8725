"""Keys and values of rows: of prefixes that many branches look back at, and of what was sampled, kept for later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from mrt.kv_cache import GrowingLayer, growing_cache, passing_cache

Pair = tuple[Tensor, Tensor]


@dataclass
class Kept:
    """Keys and values of one row that was sampled, a pair (heads, positions, width) a layer, without gaps."""

    layers: list[Pair]

    @property
    def length(self) -> int:
        """Positions."""
        return self.layers[0][0].shape[1]


def keep_row(cache: DynamicCache, row: int, positions: Tensor) -> Kept:
    """A copy of the keys and values of `row` at `positions` (indices into the cache)."""
    layers: list[Any] = list(cache.layers)
    return Kept([(layer.keys[row][:, positions], layer.values[row][:, positions]) for layer in layers])


@dataclass
class Prefix:
    """Keys and values of some rows, right-padded to one length; `lengths` (rows,) tells what is real.

    `last` (rows, width) are the hidden states at the last token of each row, for branches without a suffix that cut
    there; None where the rows come from acting. `kept` are the rows that look into this cache (`join_rows`).
    """

    cache: DynamicCache
    lengths: Tensor
    last: Tensor | None = None
    kept: Sequence[Kept] = field(default_factory=tuple)

    @property
    def width(self) -> int:
        """Positions of the longest row."""
        return self.cache.get_seq_length()

    def reserve(self, more: int) -> None:
        """Room behind all rows; a layer at a time, so that what is left behind is given back before the next moves."""
        for place, layer in enumerate(self._layers()):
            if layer.reserve(more):
                keys, values = layer.filled()
                for row, one in enumerate(self.kept):
                    one.layers[place] = (keys[row, :, : one.length], values[row, :, : one.length])

    def shorten(self, width: int) -> None:
        """Forgets what was written behind the first `width` positions."""
        for layer in self._layers():
            layer.shorten(width)

    def copy_of(self, rows: Sequence[int], width: int) -> DynamicCache:
        """A growing copy of the first `width` positions of `rows`, which may repeat."""
        cache = growing_cache([(keys[:, :, :width], values[:, :, :width]) for keys, values in self._pairs()])
        cache.batch_select_indices(torch.tensor(list(rows), device=self.lengths.device))
        return cache

    def passing(self, rows: Sequence[int], width: int) -> DynamicCache:
        """The first `width` positions of `rows`, to be looked at only; no copy where the rows lie side by side."""
        first, count = rows[0], len(rows)
        if list(rows) == list(range(first, first + count)):
            return passing_cache([tuple(x[first : first + count, :, :width] for x in pair) for pair in self._pairs()])  # type: ignore[misc]
        index = torch.tensor(list(rows), device=self.lengths.device)
        return passing_cache([tuple(x[:, :, :width].index_select(0, index) for x in pair) for pair in self._pairs()])  # type: ignore[misc]

    def _pairs(self) -> list[Pair]:
        layers: list[Any] = list(self.cache.layers)
        return [(layer.keys, layer.values) for layer in layers]

    def _layers(self) -> list[GrowingLayer]:
        self.cache.layers = [
            layer if isinstance(layer, GrowingLayer) else GrowingLayer(layer.keys, layer.values)  # type: ignore[union-attr, arg-type]
            for layer in self.cache.layers
        ]
        return self.cache.layers  # type: ignore[return-value]


def stack_rows(parts: Sequence[Prefix]) -> Prefix:
    """One prefix of the rows of several of one width, each of which gives its layers back as they are joined."""
    if len(parts) == 1:
        return parts[0]
    layers: list[Pair] = []
    for place in range(len(parts[0].cache.layers)):
        pairs: list[Any] = [part.cache.layers[place] for part in parts]
        layers.append((torch.cat([one.keys for one in pairs]), torch.cat([one.values for one in pairs])))
        for one in pairs:
            one.keys = one.values = None
    last = [part.last for part in parts if part.last is not None]
    return Prefix(growing_cache(layers), torch.cat([part.lengths for part in parts]), torch.cat(last) if last else None)


def join_rows(rows: Sequence[Kept]) -> Prefix:
    """One right-padded prefix of these rows. They look into it from then on: what they held themselves is given back a
    layer at a time, and nothing is there twice.
    """
    lengths = [row.length for row in rows]
    width, layers = max(lengths), []
    for place in range(len(rows[0].layers)):
        pair = []
        for which in (0, 1):
            first = rows[0].layers[place][which]
            joined = first.new_zeros(len(rows), first.shape[0], width, first.shape[2])
            for i, row in enumerate(rows):
                joined[i, :, : lengths[i]] = row.layers[place][which]
            pair.append(joined)
        for i, row in enumerate(rows):
            row.layers[place] = (pair[0][i, :, : lengths[i]], pair[1][i, :, : lengths[i]])
        layers.append((pair[0], pair[1]))
    return Prefix(growing_cache(layers), torch.tensor(lengths, device=layers[0][0].device), kept=tuple(rows))
