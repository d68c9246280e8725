"""What problem sets share whose answer stands in a box behind the thought, and is looked at without regard to the text
around it."""

from __future__ import annotations

from collections.abc import Mapping

from mrt.errors import ConfigError
from mrt.reasoning.grading.verdict import Grade, Verdict, extract_boxed, split_thought
from mrt.reasoning.problems.base import SPLITS, Problem


class Boxed:
    """A problem set; `splits` holds its problems. A subclass grades the bare answer."""

    name: str

    def __init__(self, splits: Mapping[str, list[Problem]]) -> None:
        self._splits = splits

    def problems(self, split: str) -> list[Problem]:
        if split not in SPLITS:
            raise ConfigError(f"{self.name} has no split '{split}': valid are {', '.join(SPLITS)}")
        return self._splits[split]

    def grade(self, problem: Problem, text: str, opened: bool | None = None) -> Grade:
        r"""The verdict on the last \boxed{} behind the first </think>; a thought that was never closed is truncated."""
        _, answer = split_thought(text, opened=opened)
        boxed = None if answer is None else extract_boxed(answer)
        if answer is None or (boxed is None and answer == text and opened is None):
            return Grade(Verdict.TRUNCATED, None, "the thought was never closed")
        if boxed is None:
            return Grade(Verdict.UNPARSED, None, "no \\boxed{} in the answer")
        return self.grade_answer(problem, boxed)

    def grade_answer(self, problem: Problem, answer: str) -> Grade:
        """The verdict on the bare answer."""
        raise NotImplementedError
