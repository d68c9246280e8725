"""Problem sets by name."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mrt.errors import ConfigError, DataError, nearest
from mrt.reasoning.grading.verdict import Verdict
from mrt.reasoning.problems.base import SPLITS, Problem, ProblemSet
from mrt.reasoning.problems.chains import Chains
from mrt.reasoning.problems.countdown import Countdown
from mrt.reasoning.problems.cycles import Cycles
from mrt.reasoning.problems.files import Files
from mrt.reasoning.problems.mixture import Mixture, parts_of_mixture
from mrt.reasoning.problems.reasoning_gym import ReasoningGym
from mrt.reasoning.problems.text_answers import Choice, Exact

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "PROBLEMS",
    "SPLITS",
    "Chains",
    "Countdown",
    "Cycles",
    "Files",
    "Problem",
    "ProblemSet",
    "load_problems",
    "to_dataset",
    "validate",
]


def mixture(sets: list[dict[str, Any]], train: int | None = None, seed: int = 0) -> ProblemSet:
    """Several problem sets as one; an entry has `name`, `weight` (1), `label` (its name) and the set's own options."""
    return Mixture(parts_of_mixture(sets, load_problems), train, seed)


PROBLEMS: dict[str, Callable[..., ProblemSet]] = {
    "countdown": Countdown,
    "chains": Chains,
    "cycles": Cycles,
    "files": Files,
    "exact": Exact,
    "choice": Choice,
    "reasoning_gym": ReasoningGym,
    "mixture": mixture,
}


def load_problems(name: str, **dials: Any) -> ProblemSet:
    """The problem set `name` with its options. Raises ConfigError for an unknown name or option, with the nearest valid
    one."""
    if name not in PROBLEMS:
        raise ConfigError(f"unknown problem set '{name}': {nearest(str(name), set(PROBLEMS))}")
    valid = set(inspect.signature(PROBLEMS[name]).parameters)
    for dial in dials:
        if dial not in valid:
            raise ConfigError(f"problem set '{name}' has no option '{dial}': {nearest(dial, valid)}")
    missing = [
        dial
        for dial, one in inspect.signature(PROBLEMS[name]).parameters.items()
        if one.default is inspect.Parameter.empty and dial not in dials
    ]
    if missing:
        raise ConfigError(f"problem set '{name}' needs {', '.join(missing)}")
    return PROBLEMS[name](**dials)


def validate(problem_set: ProblemSet, split: str, limit: int | None = None) -> int:
    """Grades every gold answer of a split (of its first `limit` problems); returns how many there are.

    Raises DataError naming the rows whose gold answer is not correct against itself.
    """
    problems = problem_set.problems(split)[:limit]
    unusable = []
    for row, problem in enumerate(problems, start=1):
        grade = problem_set.grade_answer(problem, problem.solution)
        if grade.verdict is Verdict.TIMEOUT:  # on a busy machine
            grade = problem_set.grade_answer(problem, problem.solution)
        if grade.reward != 1.0:
            unusable.append((problem.data.get("where", f"row {row} of split '{split}'"), problem.solution, grade))
    if unusable:
        where, gold, grade = unusable[0]
        others = ", ".join(str(place).rpartition(", ")[2] for place, _, _ in unusable[1:10])
        more = f" So do {len(unusable) - 1} more of {len(problems)}: {others}{' ...' * (len(unusable) > 10)}."
        raise DataError(
            f"{problem_set.name}: {where}: the gold answer {gold[:200]!r} grades {grade.verdict} against itself "
            f"({grade.detail or 'no detail'}).{more * (len(unusable) > 1)} Mend or remove it; an answer that its own "
            "grader does not accept teaches nothing and measures nothing (`mrt grade FILE` lists them all)."
        )
    return len(problems)


def to_dataset(problem_set: ProblemSet, split: str, limit: int | None = None) -> Dataset:
    """The split (its first `limit` problems) as a dataset: prompt (messages), key, solution, solutions, data (JSON)."""
    from datasets import Dataset, Features, Value
    from datasets import List as ListOf

    problems = problem_set.problems(split)[:limit]
    text = Value("string")
    features = Features(
        {
            "prompt": ListOf({"role": text, "content": text}),
            "key": text,
            "solution": text,
            "solutions": ListOf(text),
            "data": text,
        }
    )
    rows = {
        "prompt": [[{"role": "user", "content": problem.prompt}] for problem in problems],
        "key": [problem.key for problem in problems],
        "solution": [problem.solution for problem in problems],
        "solutions": [problem_set.solutions(problem) for problem in problems],
        "data": [json.dumps(dict(problem.data), ensure_ascii=False) for problem in problems],
    }
    return Dataset.from_dict(rows, features=features)
