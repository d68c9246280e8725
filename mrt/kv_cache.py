"""A cache of keys and values that grows in place: for acting a step at a time, in text and in control."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

SPARE = 64  # positions


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
        assert self.values is not None
        used, more = self.keys.shape[-2], key_states.shape[-2]
        room = self._room
        # Whoever selected, repeated or cut rows has replaced `keys`: then the room belongs to rows that are gone.
        if room is None or room[0].data_ptr() != self.keys.data_ptr() or room[0].shape[0] != self.keys.shape[0]:
            room = None
        if room is None or room[0].shape[-2] < used + more:
            room = (_roomier(self.keys, more), _roomier(self.values, more))
        room[0][:, :, used : used + more] = key_states
        room[1][:, :, used : used + more] = value_states
        self._room = room
        self.keys, self.values = room[0][:, :, : used + more], room[1][:, :, : used + more]
        return self.keys, self.values


def _roomier(states: Tensor, more: int) -> Tensor:
    rows, heads, used, width = states.shape
    bigger = states.new_empty(rows, heads, used + more + max(SPARE, used // 2), width)
    bigger[:, :, :used] = states
    return bigger


def growing_cache(layers: Sequence[tuple[Tensor, Tensor]]) -> DynamicCache:
    """A cache of `GrowingLayer`s that begins with these keys and values (rows, heads, positions, width)."""
    cache = DynamicCache()
    cache.layers = [GrowingLayer(keys, values) for keys, values in layers]
    return cache
