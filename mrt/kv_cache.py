"""A cache of keys and values that grows in place: for acting a step at a time, in text and in control."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

SPARE = 64  # positions
SHARE = 8  # one more position of room for so many that are used


class GrowingLayer(DynamicLayer):
    """A dynamic layer with room to spare: a new token is written behind the others, where `DynamicLayer` copies all
    of them for every token.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values
        self._room: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        used, more = self.keys.shape[-2], key_states.shape[-2]
        self.reserve(more)
        assert self._room is not None
        keys, values = self._room
        keys[:, :, used : used + more] = key_states
        values[:, :, used : used + more] = value_states
        self.keys, self.values = keys[:, :, : used + more], values[:, :, : used + more]
        return self.keys, self.values

    def reserve(self, more: int) -> bool:
        """Makes room for `more` positions behind those that are used; whether keys and values moved for it."""
        assert self.keys is not None
        assert self.values is not None
        used, room = self.keys.shape[-2], self._room
        # Whoever selected, repeated or cut rows has replaced `keys`: then the room belongs to rows that are gone.
        mine = room is not None and room[0].data_ptr() == self.keys.data_ptr() and len(room[0]) == len(self.keys)
        if mine and room is not None and room[0].shape[-2] >= used + more:
            return False
        self._room = (_roomier(self.keys, more), _roomier(self.values, more))
        self.keys, self.values = self._room[0][:, :, :used], self._room[1][:, :, :used]
        return True

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only these rows, which may repeat, with room behind them: one copy."""
        keys, values = self.filled()
        used = keys.shape[-2]
        self._room = (_roomier(keys, 1, indices), _roomier(values, 1, indices))
        self.keys, self.values = self._room[0][:, :, :used], self._room[1][:, :, :used]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row so many times, side by side."""
        keys, _ = self.filled()
        self.batch_select_indices(torch.arange(len(keys), device=keys.device).repeat_interleave(repeats))

    def filled(self) -> tuple[Tensor, Tensor]:
        """Keys and values (rows, heads, positions, width) so far."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def shorten(self, used: int) -> None:
        """Forgets what lies behind the first `used` positions; the room stays."""
        assert self.keys is not None
        assert self.values is not None
        self.keys, self.values = self.keys[:, :, :used], self.values[:, :, :used]


class PassingLayer(DynamicLayer):
    """Keys and values that new ones are only shown with: nothing of a pass is kept."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2)


def _roomier(states: Tensor, more: int, rows: Tensor | None = None) -> Tensor:
    count, heads, used, width = states.shape
    count = count if rows is None else len(rows)
    bigger = states.new_empty(count, heads, used + more + max(SPARE, used // SHARE), width)
    if rows is None:
        bigger[:, :, :used] = states
    else:
        torch.index_select(states, 0, rows, out=bigger[:, :, :used])
    return bigger


def growing_cache(layers: Sequence[tuple[Tensor, Tensor]]) -> DynamicCache:
    """A cache of `GrowingLayer`s that begins with these keys and values (rows, heads, positions, width)."""
    cache = DynamicCache()
    cache.layers = [GrowingLayer(keys, values) for keys, values in layers]
    return cache


def passing_cache(layers: Sequence[tuple[Tensor, Tensor]]) -> DynamicCache:
    """A cache of `PassingLayer`s: these keys and values (rows, heads, positions, width), whatever is passed by."""
    cache = DynamicCache()
    cache.layers = [PassingLayer(keys, values) for keys, values in layers]
    return cache
