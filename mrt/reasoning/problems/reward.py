"""The reward of a completion, as TRL calls it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mrt.errors import DataError
from mrt.reasoning.grading.verdict import Grade, verdict_shares

if TYPE_CHECKING:
    from mrt.reasoning.problems import Problem, ProblemSet


LogMetric = Callable[[str, float], None]


class ProblemReward:
    """TRL reward function that grades by a problem set; reads the columns of `to_dataset`: key, solution, data."""

    def __init__(self, problem_set: ProblemSet, opened: bool = False):
        self.problem_set = problem_set
        self.opened = opened
        self.__name__ = f"{problem_set.name}_reward"

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        key: Sequence[str] | None = None,
        solution: Sequence[str] | None = None,
        data: Sequence[str] | None = None,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Rewards (B,). Raises `DataError` where a column is missing."""
        from mrt.reasoning.problems import Problem

        if key is None or solution is None or data is None:
            missing = [
                name for name, column in (("key", key), ("solution", solution), ("data", data)) if column is None
            ]
            raise DataError(f"{self.__name__} needs the dataset columns {missing}; `to_dataset` writes them")
        asked = []
        for prompt, completion, name, gold, extra in zip(prompts, completions, key, solution, data, strict=True):
            problem = Problem(name, _text(prompt), gold, json.loads(extra))
            text = _text(completion)
            asked.append((problem, "<think>" + text if self.opened else text))
        together = getattr(self.problem_set, "grade_many", None)  # sets that grade several at once
        grades = together(asked) if together else [self.problem_set.grade(*one) for one in asked]
        _log_sets([problem for problem, _ in asked], grades, log_metric)
        return _rewards(grades, log_metric)


def _text(message: Any) -> str:
    """The text of a completion or prompt: a string, or the last message of a list."""
    return message if isinstance(message, str) else str(message[-1].get("content") or "")


def _log_sets(problems: Sequence[Problem], grades: Sequence[Grade], log_metric: LogMetric | None) -> None:
    """The mean reward of every set of a mixture, as reward/<label>."""
    if log_metric is None:
        return
    found: dict[str, list[float]] = {}
    for problem, grade in zip(problems, grades, strict=True):
        if "set" in problem.data and grade.reward is not None:
            found.setdefault(problem.data["set"], []).append(grade.reward)
    for label, rewards in found.items():
        log_metric(f"reward/{label}", sum(rewards) / len(rewards))


def _rewards(grades: list[Grade], log_metric: LogMetric | None) -> list[float | None]:
    if log_metric is not None:
        for name, share in verdict_shares(grades).items():
            log_metric(name, share)
    return [grade.reward for grade in grades]
