"""Rows of token ids that grow turn by turn on one engine: what was said and read goes through the model once.

On `TransformersEngine` the rows keep their keys and values where they are (`engines.turns`). Any other engine is asked
through its protocol: one that keeps keys and values (`Answers.kept`) is given them back, one that does not is given the
whole row again, which vLLM then finds in its own prefix cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from mrt.reasoning.engines.base import Answers, Branch, Engine
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.engines.transformers import TransformersEngine
from mrt.reasoning.engines.turns import Turns


class Talk(Protocol):
    """`ids` holds what each row has said and read so far."""

    ids: list[list[int]]

    def read(self, row: int, ids: Sequence[int]) -> None:
        """Appends given tokens to a row; they run with its next turn."""

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
        ...

    def score(
        self, rows: Sequence[int], continuations: Sequence[Sequence[Sequence[int]]], *, sampling: Sampling
    ) -> list[Tensor]:
        """Log-probability of every continuation of every row as `sampling` draws them, float64 (continuations,) a row.

        Nothing of it stays in the rows.
        """
        ...

    def release(self, rows: Sequence[int]) -> None:
        """These rows write no more."""

    def fork(self, rows: Sequence[int]) -> Talk:
        """An independent copy of some rows, which may repeat."""
        ...


def open_talk(engine: Engine, openings: Sequence[Sequence[int]], room: int) -> Talk:
    """A conversation of every row with the best that the engine has; `room`: positions that a row may come to."""
    if isinstance(engine, TransformersEngine) and len(openings) * room <= engine.max_positions:
        return Turns(engine, openings)
    return Conversation(engine, openings)


class Conversation:
    """`Talk` through the protocol of any engine."""

    def __init__(self, engine: Engine, openings: Sequence[Sequence[int]]) -> None:
        self.engine = engine
        self.ids: list[list[int]] = [list(ids) for ids in openings]
        self._kept: list[Any] = [None] * len(self.ids)
        self._open: tuple[tuple[int, ...], Any, list[Branch]] | None = None

    def read(self, row: int, ids: Sequence[int]) -> None:
        """Appends given tokens to a row."""
        self.ids[row] += ids
        self._open = None

    def release(self, rows: Sequence[int]) -> None:
        """Gives back what was kept of these rows."""
        for row in rows:
            self._kept[row] = None

    def write(
        self,
        rows: Sequence[int],
        limit: int,
        stop_ids: Sequence[int],
        *,
        sampling: Sampling,
        purpose: str = "sampled",
    ) -> list[Answers]:
        """As `Talk.write`."""
        prefix, branches = self._opened(rows, purpose)
        found = self.engine.answers(prefix, branches, 1, limit, stop_ids, sampling=sampling, purpose=purpose, keep=True)
        for row, answer in zip(rows, found, strict=True):
            self.ids[row] += answer.ids[0]
            self._kept[row] = answer.kept[0] if answer.kept else None
        self._open = None
        return found

    def score(
        self, rows: Sequence[int], continuations: Sequence[Sequence[Sequence[int]]], *, sampling: Sampling
    ) -> list[Tensor]:
        """As `Talk.score`."""
        prefix, branches = self._opened(rows, "sampled")
        asked = [
            branch if branch.suffix else Branch(branch.row, branch.cut - 1, (self.ids[row][branch.cut - 1],))
            for row, branch in zip(rows, branches, strict=True)
        ]
        return self.engine.score(prefix, asked, continuations, sampling=sampling)

    def fork(self, rows: Sequence[int]) -> Conversation:
        """An independent copy of some rows, which may repeat."""
        other = Conversation(self.engine, [self.ids[row] for row in rows])
        other._kept = [self._kept[row] for row in rows]
        return other

    def _opened(self, rows: Sequence[int], purpose: str) -> tuple[Any, list[Branch]]:
        """A prefix of the engine and the branches at the ends of `rows`; the same until something is appended."""
        key = tuple(rows)
        if self._open is None or self._open[0] != key:
            self._open = (key, *self._prefix(rows, purpose))
        return self._open[1:]

    def _prefix(self, rows: Sequence[int], purpose: str) -> tuple[Any, list[Branch]]:
        kept = [self._kept[row] for row in rows]
        pending = [self.ids[row][one.length if one is not None else 0 :] for row, one in zip(rows, kept, strict=True)]
        if all(one is not None for one in kept) and all(pending):
            prefix = self.engine.restore(kept)
            return prefix, [Branch(i, one.length, tuple(pending[i])) for i, one in enumerate(kept)]
        different = {ids: place for place, ids in enumerate(dict.fromkeys(tuple(self.ids[row]) for row in rows))}
        places = [different[tuple(self.ids[row])] for row in rows]  # rows that begin alike run once
        return self.engine.prefill(list(different), purpose), [
            Branch(place, len(self.ids[row])) for place, row in zip(places, rows, strict=True)
        ]
