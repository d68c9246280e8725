"""Rows that are read and written turn by turn behind one cache: every token goes through the model once.

Between two turns nothing is copied: the keys and values of a row stay where they are, and the next turn runs what was
given since, together with the last token that was drawn. What is asked about a boundary (`score`) uses the same pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mrt.kv_cache import growing_cache
from mrt.reasoning.engines.base import Answers, Branch
from mrt.reasoning.engines.cache import join_rows, keep_row
from mrt.reasoning.engines.sampling import Sampling, draw, shaped
from mrt.reasoning.engines.streams import NOBODY, PREFIX, Place, Rows, write
from mrt.reasoning.engines.transformers import TransformersEngine

MANY = 0.75  # of the rows in the cache that still write: below it the others leave


class Turns:
    """`mrt.reasoning.attempts.conversation.Talk` on keys and values of this process; `ids` is all of every row."""

    def __init__(self, engine: TransformersEngine, openings: Sequence[Sequence[int]]) -> None:
        self.engine = engine
        self.ids: list[list[int]] = [list(ids) for ids in openings]
        self._fed = [0] * len(self.ids)  # tokens of each row that are in the cache
        self._wrote = [False] * len(self.ids)
        self._place = list(range(len(self.ids)))  # of each row in the cache, -1 for one that has left
        self._over: set[int] = set()
        self._cut = torch.tensor([len(ids) for ids in self.ids], device=engine.device)  # ends of the openings
        self._rows: Rows | None = None
        self._last = torch.zeros(0)  # (rows, V) logits behind the last token fed of each row

    def read(self, row: int, ids: Sequence[int]) -> None:
        """Appends given tokens to a row; they run with its next turn."""
        self.ids[row] += ids

    def write(
        self,
        rows: Sequence[int],
        limit: int,
        stop_ids: Sequence[int],
        *,
        sampling: Sampling,
        purpose: str = "sampled",
    ) -> list[Answers]:
        """The next turn of `rows`, one answer each, appended to them: up to a stop token (kept as its last id), or
        `limit` tokens.
        """
        found = {row: Answers([[]], [[]], [False]) for row in rows}
        self.engine.counts.asked += sum(len(self.ids[row]) for row in rows)
        going = list(rows)
        with self.engine.passes.running():
            for _ in range(limit):
                tokens, logprobs = draw(self._feed(going, purpose), sampling)
                self.engine.counts.decoded += len(going)
                left = []
                for row, token, logprob in zip(going, tokens.tolist(), logprobs.tolist(), strict=True):
                    answer = found[row]
                    answer.ids[0].append(token)
                    answer.logprobs[0].append(logprob)
                    answer.stopped[0] = token in stop_ids
                    self.ids[row].append(token)
                    self._wrote[row] = True
                    left += [] if answer.stopped[0] else [row]
                going = left
                if not going:
                    break
        return list(found.values())

    def score(
        self, rows: Sequence[int], continuations: Sequence[Sequence[Sequence[int]]], *, sampling: Sampling
    ) -> list[Tensor]:
        """Log-probability of every continuation of every row as `sampling` draws them, float64 (continuations,) a row.

        Continuations of one token cost nothing; longer ones run behind a copy of the rows.
        """
        with self.engine.passes.running():
            logits = self._feed(rows, "sampled")
        if all(len(one) == 1 for group in continuations for one in group):
            table = shaped(logits.double(), sampling).log_softmax(-1).cpu()
            return [table[i, [one[0] for one in group]] for i, group in enumerate(continuations)]
        prefix = join_rows([keep_row(self._held.cache, self._place[row], self._keys_of(row)) for row in rows])
        branches = [Branch(i, len(self.ids[row]) - 1, (self.ids[row][-1],)) for i, row in enumerate(rows)]
        return self.engine.score(prefix, branches, continuations, sampling=sampling)

    def release(self, rows: Sequence[int]) -> None:
        """These rows write no more: they leave the cache once they and others like them are a quarter of it."""
        self._over.update(rows)
        held = [row for row, place in enumerate(self._place) if place >= 0]
        stay = [row for row in held if row not in self._over]
        if self._rows is None or not stay or len(stay) > MANY * len(held):
            return
        self._rows = self._copied(stay, stay)
        self._place = [-1] * len(self._place)
        for place, row in enumerate(stay):
            self._place[row] = place

    def fork(self, rows: Sequence[int]) -> Turns:
        """An independent copy of some rows, which may repeat; what they were given runs once, before they part."""
        with self.engine.passes.running():
            self._feed(list(dict.fromkeys(rows)), "sampled")
        other = Turns(self.engine, [self.ids[row] for row in rows])
        other._fed, other._wrote = [self._fed[row] for row in rows], [self._wrote[row] for row in rows]
        other._rows = self._copied(rows, range(len(rows)))
        other._last, other._cut = self._last[list(rows)], self._cut[list(rows)]
        return other

    @property
    def _held(self) -> Rows:
        assert self._rows is not None
        return self._rows

    def _feed(self, rows: Sequence[int], purpose: str) -> Tensor:
        """Runs what `rows` were given or drew since their last pass; logits (rows, V) of their next tokens."""
        if self._rows is None:
            self._begin(purpose)
        new = [row for row in rows if self._fed[row] < len(self.ids[row])]
        if new:
            engine, device = self.engine, self.engine.device
            pending = [self.ids[row][self._fed[row] :] for row in new]
            sizes = torch.tensor([len(one) for one in pending], device=device)
            number = torch.tensor(new, device=device).repeat_interleave(sizes)
            position = torch.cat([torch.arange(self._fed[row], len(self.ids[row])) for row in new]).to(device)
            where = torch.tensor([self._place[row] for row in new], device=device).repeat_interleave(sizes)
            place = Place(where, self._cut[number], number, number, position)
            tokens = torch.tensor([token for one in pending for token in one], device=device)
            asked = sizes.cumsum(0) - 1
            self._last[new] = write(engine.passes, engine.attention, self._held, place, tokens, asked=asked)
            engine.positions[purpose] += len(tokens)
            engine.counts.prefilled += len(tokens) - sum(self._wrote[row] for row in new)
            for one in new:
                self._fed[one] = len(self.ids[one])
        return self._last[list(rows)]

    def _begin(self, purpose: str) -> None:
        """Runs the openings; rows that begin alike run once."""
        openings = [tuple(ids[:cut]) for ids, cut in zip(self.ids, self._cut.tolist(), strict=True)]
        different = {ids: place for place, ids in enumerate(dict.fromkeys(openings))}
        places = [different[ids] for ids in openings]
        prefix = self.engine.prefill(list(different), purpose)
        assert prefix.last is not None
        self._last = self.engine.passes.of_hidden(prefix.last)[places]
        self._rows = Rows.of(prefix.copy_of(places, prefix.width), len(places), self.engine.device)
        self._fed = self._cut.tolist()

    def _copied(self, rows: Sequence[int], numbers: Sequence[int]) -> Rows:
        """The cache of some rows, which are numbered anew."""
        held, device = self._held, self.engine.device
        index = torch.tensor([self._place[row] for row in rows], device=device)
        before, after = (torch.tensor(list(those), device=device)[:, None] for those in (rows, numbers))
        owner = held.owner[index]
        owner = torch.where(owner == before, after, torch.where(owner == PREFIX, PREFIX, NOBODY))
        layers: list[Any] = list(held.cache.layers)
        pairs = [(layer.keys[index], layer.values[index]) for layer in layers]
        return Rows(growing_cache(pairs), owner, held.position[index])

    def _keys_of(self, row: int) -> Tensor:
        """Places in the cache of all that one row has seen, in order."""
        owner, position = (table[self._place[row]] for table in (self._held.owner, self._held.position))
        return (((owner == PREFIX) & (position < self._cut[row])) | (owner == row)).nonzero()[:, 0]
