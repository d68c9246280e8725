"""An engine that says what a script tells it to, at log-probability -1 a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mrt.reasoning.engines.base import Answers, Branch, Counts


class ScriptedEngine:
    """`script[turn][row]` are the ids of an action; it keeps nothing, as vLLM."""

    def __init__(self, script: Sequence[Sequence[Sequence[int]]]) -> None:
        self.script = [list(turn) for turn in script]
        self.positions = {"sampled": 0, "probed": 0}
        self.counts = Counts()
        self.max_positions = 2**40
        self.given: list[list[tuple[int, ...]]] = []

    def prefill(self, sequences: Sequence[Sequence[int]], purpose: str = "sampled") -> Any:
        return [tuple(sequence) for sequence in sequences]

    def answers(
        self, prefix: Any, branches: Sequence[Branch], n: int, max_new_tokens: int, stop_ids: Sequence[int], **_: Any
    ) -> list[Answers]:
        self.given.append([prefix[branch.row][: branch.cut] for branch in branches])
        said = [list(ids) for ids in self.script.pop(0)]
        assert len(said) == len(branches)
        return [Answers([ids], [[-1.0] * len(ids)], [ids[-1] in stop_ids]) for ids in said]
