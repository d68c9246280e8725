"""A table that is read by similarity: the differentiable neural dictionary, and its exact counterpart.

    w_i = k(h, h_i) / sum_j k(h, h_j)        k(h, h_i) = 1 / (|h - h_i|^2 + delta)

Pritzel et al. 2017, 1703.01988, "Neural episodic control", equations 1, 2 and 5. One table a row and an action, all of
them on tensors: at the sizes of a trial (some hundred entries) looking at every entry is one matrix product, and
an index for nearest neighbours costs more than it saves. A full table forgets the entry that was not used for longest.

Letters: B rows, A actions, S slots, P numbers of a key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

DELTA = 1e-3  # of the kernel, as in the paper
SAME = 1e-6  # squared distance below which two keys are one
Merge = Callable[[Tensor, Tensor], Tensor]
"""(the value that is stored, the new one) -> what is stored from now on."""


class Table(NamedTuple):
    """`keys` (B, A, S, P), `values` (B, A, S), and when each entry was used last, `used` (B, A, S): -1 for empty."""

    keys: Tensor
    values: Tensor
    used: Tensor


def empty_table(rows: int, actions: int, slots: int, like: Tensor) -> Table:
    """A table without entries, for keys like `like` (..., P)."""
    keys = like.new_zeros(rows, actions, slots, like.shape[-1])
    used = torch.full(keys.shape[:3], -1, dtype=torch.long, device=like.device)
    return Table(keys, like.new_zeros(keys.shape[:3]), used)


def distances(table: Table, key: Tensor) -> Tensor:
    """(B, A, S) squared distances of key (B, P) to what is stored, infinite for empty slots."""
    apart = (table.keys - key[:, None, None]).square().sum(-1)
    return apart.masked_fill(table.used < 0, torch.inf)


def kernel_weights(distance: Tensor, neighbours: int = 0, delta: float = DELTA) -> Tensor:
    """(..., S) the weights w of entries at squared distances (..., S): they sum to 1, and to 0 where nothing is stored.

    Infinite distances mark empty slots; `neighbours` counts the nearest ones that are read, 0 reads all.
    """
    weight = 1 / (distance + delta)
    if 0 < neighbours < distance.shape[-1]:
        least = weight.topk(neighbours, -1).values[..., -1:]
        weight = weight.masked_fill(weight < least, 0.0)
    return weight / weight.sum(-1, keepdim=True).clamp(min=1e-12)


def touch(table: Table, distance: Tensor, neighbours: int, now: Tensor) -> None:
    """Marks the entries that a look-up read, the nearest `neighbours` of each table, as used at `now` (B,)."""
    nearest = distance.topk(min(max(neighbours, 1), distance.shape[-1]), -1, largest=False)
    old = table.used.gather(-1, nearest.indices)
    fresh = torch.where(nearest.values.isfinite(), now[:, None, None], old)
    table.used.scatter_(-1, nearest.indices, fresh)


def write(table: Table, entry: tuple[Tensor, Tensor, Tensor], rows: Tensor, now: Tensor, merge: Merge) -> None:
    """Stores `entry` (keys (B, P), actions (B,) int64, values (B,)) of the `rows` (B,) bool, in place.

    A key that is there already keeps its slot, and its value becomes `merge(old, new)`.
    """
    keys, actions, values = entry
    index = torch.nonzero(rows)[:, 0]
    action = actions[index]
    used = table.used[index, action]
    apart = (table.keys[index, action] - keys[index, None]).square().sum(-1).masked_fill(used < 0, torch.inf)
    nearest = apart.min(-1)
    known = nearest.values < SAME
    slot = torch.where(known, nearest.indices, used.argmin(-1))
    old, new = table.values[index, action, slot], values[index]
    table.values[index, action, slot] = torch.where(known, merge(old, new), new)
    table.keys[index, action, slot] = torch.where(known[:, None], table.keys[index, action, slot], keys[index])
    table.used[index, action, slot] = now[index]
