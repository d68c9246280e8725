"""What a problem is, and what a set of them must be able to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from mrt.reasoning.grading.verdict import Grade

SPLITS = ("train", "warmstart", "test")


@dataclass(frozen=True)
class Problem:
    """One problem with a checkable answer.

    `key` is canonical: the same problem has the same key, however its text is written.
    """

    key: str
    prompt: str  # the user's message
    solution: str  # one gold answer, as it stands inside \boxed{}
    data: Mapping[str, Any] = field(default_factory=dict)  # what else the set knows; JSON types only


class ProblemSet(Protocol):
    """Problems in three splits that share no key, and their grader."""

    name: str

    def problems(self, split: str) -> list[Problem]:
        """All problems of "train", "warmstart" or "test", always in the same order."""
        ...

    def grade(self, problem: Problem, text: str, opened: bool | None = None) -> Grade:
        """The verdict on a completion (thought and answer), or on the part after the thought."""
        ...

    def grade_answer(self, problem: Problem, answer: str) -> Grade:
        """The verdict on the bare answer, the content of the box."""
        ...

    def solutions(self, problem: Problem) -> list[str]:
        """Every answer string that `grade_answer` accepts; [] where they cannot be listed."""
        ...
