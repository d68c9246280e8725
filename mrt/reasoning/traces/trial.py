"""One sampled trial on token level: its episodes, and the stop values measured at their boundaries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mrt.reasoning.traces.prompts import ThinkFormat, thought_span
from mrt.reasoning.traces.segmentation import token_bytes

BLANK = 4  # tokens at most of a thought that is white space only
Segment = Callable[[Sequence[int], Any], list[int]]


@dataclass
class Trial:
    """One sampled trial on token level: completion ids, their episodes, and what was measured at the boundaries.

    `start` is where the thought begins in the completion, `ends` the exclusive ends of its episodes counted from there,
    `given` the number of leading completion tokens that the policy did not choose in this rollout. `stop_values` are
    J_0..J_K, NaN where not measured.
    """

    completion: list[int]
    start: int = 0
    ends: list[int] = field(default_factory=list)
    closed: bool = False
    chosen: list[int] | None = None  # 1 for a token chosen now by the policy; None: all of them
    fork: int = -1
    age: int = 0
    forced: bool = False
    logprobs: list[float] | None = None
    stop_values: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    drawn: list[Any] = field(default_factory=list)  # forced answers (`probes.base.Drawn`) at its boundaries
    kept: Any = None  # what the engine kept of acting (`Answers.kept`), until the trial has been probed

    @property
    def thought(self) -> list[int]:
        """Ids of the thought, without its tags."""
        return self.completion[self.start : self.start + (self.ends[-1] if self.ends else 0)]


def read_trial(completion: Sequence[int], fmt: ThinkFormat, segment: Segment) -> Trial:
    """The thought of a completion and its episodes; a thought that was never closed runs to the end (without an end
    token). A closed thought of nothing but white space, the line break that some formats write before the tag, has no
    episode: the answer came at once.
    """
    ids = list(completion)
    start, close = thought_span(ids, fmt)
    stop = close if close is not None else len(ids) - (1 if ids and ids[-1] in fmt.end_ids else 0)
    thought = ids[start:stop]
    if close is not None and len(thought) <= BLANK and not b"".join(token_bytes(thought, fmt.tokenizer)).strip():
        thought = []
    return Trial(ids, start, segment(thought, fmt.tokenizer) if thought else [], close is not None)
