"""One sampled row while it is written, token by token: what the policy drew, and what it was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mrt.reasoning.traces.prompts import ThinkFormat
from mrt.reasoning.traces.trial import Segment, Trial, read_trial


@dataclass
class SampleRow:
    """A prompt and the completion behind it.

    `logprobs` are those of the distribution sampled from, 0 for a token that was given. `chosen` is 1 for a token that
    the policy drew and is trained on. `kept` are the keys and values from acting (`Answers.kept`).
    """

    prompt: Sequence[int]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)
    kept: Any = None

    @property
    def context(self) -> list[int]:
        """Prompt and completion."""
        return [*self.prompt, *self.ids]

    def give(self, ids: Sequence[int]) -> None:
        """Appends tokens that the policy did not choose."""
        self.ids += ids
        self.logprobs += [0.0] * len(ids)
        self.chosen += [0] * len(ids)

    def draw(self, ids: Sequence[int], logprobs: Sequence[float], trained: bool = True) -> None:
        """Appends tokens that the policy drew."""
        self.ids += ids
        self.logprobs += logprobs
        self.chosen += [int(trained)] * len(ids)

    def end_turn(self, fmt: ThinkFormat) -> None:
        """Gives the end of the turn, where the row does not have it yet."""
        if not self.ids or self.ids[-1] not in fmt.end_ids:
            self.give(fmt.end_ids[:1])

    def trial(self, fmt: ThinkFormat, segment: Segment) -> Trial:
        """The row as it is now, its thought cut into episodes."""
        trial = read_trial(self.ids, fmt, segment)
        trial.kept = self.kept
        return self.written_to(trial)

    def written_to(self, trial: Trial) -> Trial:
        """The same trial with all that has been appended since it was read."""
        trial.completion, trial.logprobs = list(self.ids), list(self.logprobs)
        trial.chosen = None if all(self.chosen) else list(self.chosen)
        return trial
