"""Streams: continuations of branches in the middle of decoding, several of them behind one row of keys and values.

Every key in a row has an owner: the prefix, the suffix of one branch, or one stream. A stream sees the prefix up to
its cut, the suffix of its branch and itself. So all streams of a row share its prefix without a copy; where their own
tokens would be many more than the prefix, each stream has a row to itself instead (`shares`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from mrt.kv_cache import growing_cache
from mrt.reasoning.engines.attention import Attention
from mrt.reasoning.engines.base import Branch
from mrt.reasoning.engines.cache import Prefix
from mrt.reasoning.engines.passes import Passes

PREFIX, NOBODY = -1, -2  # owners
WASTE = 4  # streams share a row while together they write at most so many times what they share
SOON = 16  # tokens that most answers have: whether streams begin in one row is decided as if all had no more


def shares(branches: Sequence[Branch], n: int, max_new_tokens: int) -> bool:
    """Whether the streams of a row begin behind one prefix: less memory, but attention reads what others wrote."""
    soon = min(max_new_tokens, SOON)
    written: dict[int, int] = {}
    longest: dict[int, int] = {}
    for branch in branches:
        written[branch.row] = written.get(branch.row, 0) + n * soon + len(branch.suffix)
        longest[branch.row] = max(longest.get(branch.row, 0), branch.cut)
    return all(written[row] <= WASTE * longest[row] for row in written)


@dataclass
class Rows:
    """Rows of keys and values that are written to: whose each key is (rows, keys), and its position (rows, keys)."""

    cache: DynamicCache
    owner: Tensor
    position: Tensor
    prefix: Prefix | None = None  # whose own cache this is

    @staticmethod
    def of(cache: DynamicCache, count: int, device: torch.device, prefix: Prefix | None = None) -> Rows:
        """Rows that hold a prefix and nothing else."""
        position = torch.arange(cache.get_seq_length(), device=device).expand(count, -1)
        return Rows(cache, torch.full_like(position, PREFIX), position, prefix)


@dataclass
class Streams:
    """What is decoded: per stream its row, the cut of its prefix, its branch, its own number, its next position, and
    the logits of its next token (streams, V).
    """

    rows: Rows
    row: Tensor
    cut: Tensor
    branch: Tensor
    number: Tensor
    next: Tensor
    logits: Tensor

    def advance(self, passes: Passes, attention: Attention, token: Tensor) -> None:
        """Feeds one token (streams,) to every stream."""
        place = Place(self.row, self.cut, self.branch, self.number, self.next)
        self.logits = write(passes, attention, self.rows, place, token)
        self.next = self.next + 1

    def select(self, keep: Tensor, own_rows: bool) -> None:
        """Only these streams go on; rows that belong to one stream each go with it."""
        if own_rows:
            self.rows.cache.batch_select_indices(self.row[keep])
            self.rows.owner, self.rows.position = (x[self.row[keep]] for x in (self.rows.owner, self.rows.position))
            self.row = torch.arange(len(keep), device=keep.device)
        else:
            self.row = self.row[keep]
        self.cut, self.branch, self.number = self.cut[keep], self.branch[keep], self.number[keep]
        self.next, self.logits = self.next[keep], self.logits[keep]

    def repeat(self, n: int, own_rows: bool) -> None:
        """`n` streams where one was, side by side."""
        if n == 1:
            return
        self.cut, self.branch, self.next, self.logits = (
            x.repeat_interleave(n, 0) for x in (self.cut, self.branch, self.next, self.logits)
        )
        self.number = torch.arange(len(self.cut), device=self.cut.device) + int(self.branch.max()) + 1
        if own_rows:
            self.rows.cache.batch_repeat_interleave(n)
            self.rows.owner, self.rows.position = (
                x.repeat_interleave(n, 0) for x in (self.rows.owner, self.rows.position)
            )
            self.row = torch.arange(len(self.cut), device=self.cut.device)
        else:
            self.row = self.row.repeat_interleave(n)

    def should_part(self, shared: int) -> bool:
        """Whether rows, `shared` positions wide at first, hold more of other streams than sharing is worth, or idle."""
        streams, (rows, width) = len(self.row), self.rows.owner.shape
        return (streams > rows and width - shared > WASTE * shared) or streams <= 0.75 * rows

    def part(self) -> None:
        """Gives every stream a row of its own, with the keys that it has seen and no others."""
        columns = [self.keys_of(place) for place in range(len(self.row))]
        width = max(map(len, columns))
        index = torch.stack([torch.nn.functional.pad(one, (0, width - len(one)), value=-1) for one in columns])
        empty, index = index < 0, index.clamp(min=0)
        owner, position = (x[self.row[:, None], index] for x in (self.rows.owner, self.rows.position))
        layers: list[Any] = list(self.rows.cache.layers)
        pairs = [(layer.keys, layer.values) for layer in layers]
        where = (self.row[:, None], index)
        own = [tuple(x.transpose(1, 2)[where].transpose(1, 2) for x in pair) for pair in pairs]
        self.rows = Rows(growing_cache(own), owner.masked_fill(empty, NOBODY), position)
        self.row = torch.arange(len(index), device=index.device)

    def keys_of(self, place: int) -> Tensor:
        """Places in the cache of all that one stream has seen, in order."""
        row = int(self.row[place])
        owner, position = self.rows.owner[row], self.rows.position[row]
        prefix = (owner == PREFIX) & (position < self.cut[place])
        return (prefix | (owner == self.branch[place]) | (owner == self.number[place])).nonzero()[:, 0]


@dataclass
class Place:
    """Queries of a pass, each (queries,): row, what it sees (cut, branch, stream), and its position."""

    row: Tensor
    cut: Tensor
    branch: Tensor
    number: Tensor
    position: Tensor


def enter(
    passes: Passes, attention: Attention, rows: Rows, places: Sequence[int], branches: Sequence[Branch]
) -> Streams:
    """Runs the suffixes of `branches` behind rows `places`; one stream each. Branches may share a row."""
    device = passes.device
    sizes = torch.tensor([len(branch.suffix) for branch in branches], device=device)
    row = torch.tensor(list(places), device=device)
    cut = torch.tensor([branch.cut for branch in branches], device=device)
    number = torch.arange(len(branches), device=device)
    depth = torch.cat([torch.arange(int(size), device=device) for size in sizes.tolist()])
    each = [x.repeat_interleave(sizes) for x in (row, cut, number)]
    place = Place(each[0], each[1], each[2], each[2], each[1] + depth)
    tokens = torch.tensor([token for branch in branches for token in branch.suffix], device=device)
    logits = write(passes, attention, rows, place, tokens, asked=sizes.cumsum(0) - 1)
    return Streams(rows, row, cut, number, number, cut + sizes, logits)


def write(
    passes: Passes,
    attention: Attention,
    rows: Rows,
    place: Place,
    tokens: Tensor,
    *,
    asked: Tensor | None = None,
) -> Tensor:
    """One pass over `tokens` (queries,), whose keys stay in the rows; logits (asked, V), of all queries where None."""
    count, device = len(rows.owner), tokens.device
    column, width = _columns(place.row, count)

    def grid(values: Tensor, empty: int) -> Tensor:
        out = torch.full((count, width), empty, dtype=torch.long, device=device)
        out[place.row, column] = values
        return out

    used = rows.owner.shape[1]
    owner = torch.cat([rows.owner, grid(place.number, NOBODY)], 1)
    position = torch.cat([rows.position, grid(place.position, 0)], 1)
    asking, cut, branch, number = (grid(x, NOBODY - 1) for x in (place.position, place.cut, place.branch, place.number))
    mine = (owner[:, None] == branch[:, :, None]) | (owner[:, None] == number[:, :, None])
    sees = mine & (position[:, None] <= asking[:, :, None])
    sees |= (owner[:, None] == PREFIX) & (position[:, None] < cut[:, :, None])
    own = torch.arange(width, device=device)
    sees[:, own, used + own] = True  # padding sees itself: no empty softmax row
    asking = asking.clamp(min=0)
    if rows.prefix is not None:
        rows.prefix.reserve(width)
    which = slice(None) if asked is None else asked
    logits = passes.logits(
        place.row[which],
        column[which],
        input_ids=grid(tokens, 0),
        attention_mask=attention.mask(sees, asking, position, passes.dtype),
        position_ids=asking,
        past_key_values=rows.cache,
        use_cache=True,
    )
    rows.owner, rows.position = owner, position
    return logits


def _columns(row: Tensor, count: int) -> tuple[Tensor, int]:
    """Queries of a row side by side: the column of each, and how many columns there are."""
    order = torch.argsort(row, stable=True)
    sizes = torch.bincount(row, minlength=count)
    starts = sizes.cumsum(0) - sizes
    columns = torch.empty_like(row)
    columns[order] = torch.arange(len(row), device=row.device) - starts[row[order]]
    return columns, int(sizes.max())
