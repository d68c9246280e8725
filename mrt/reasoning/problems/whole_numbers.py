"""What problem sets share whose answer is one whole number, and whose problems are drawn at random."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from mrt.errors import ConfigError
from mrt.reasoning.grading.verdict import Grade, Verdict
from mrt.reasoning.problems.base import SPLITS, Problem
from mrt.reasoning.problems.boxed import Boxed
from mrt.tasks import split_of

FRUITLESS = 10_000  # draws in a row without a new problem
SHARES = {"train": 0.65, "warmstart": 0.25, "test": 0.10}


class WholeNumbers(Boxed):
    """A problem set with one right answer, a whole number; `splits` holds its problems."""

    def grade_answer(self, problem: Problem, answer: str) -> Grade:
        shown = answer.strip()[:200]
        if not shown.isascii() or not shown.isdigit() or len(shown) > 9:
            return Grade(Verdict.UNPARSED, shown, "not a whole number")
        if int(shown) != int(problem.solution):
            return Grade(Verdict.WRONG, shown, f"equals {problem.solution}")
        return Grade(Verdict.CORRECT, shown)

    def solutions(self, problem: Problem) -> list[str]:
        """The one answer, as the model writes it."""
        return [problem.solution]


def check_sizes(name: str, sizes: Mapping[str, int]) -> None:
    """Raises ConfigError for a split of impossible size."""
    for size, value in sizes.items():
        if not 0 <= value <= 1_000_000:
            raise ConfigError(f"{name}: {size} must be a whole number from 0 to 1,000,000, got {value!r}")


def draw_splits(
    name: str, problem: Callable[[random.Random], Problem], sizes: Mapping[str, int], seed: int, what: str
) -> dict[str, list[Problem]]:
    """Problems by `problem` until every split is full. A problem's split depends on its key alone, or on what its data
    call `same`: problems that have this in common are all in one split.

    Raises:
        ConfigError: where there are too few; `what` names them and the cure.
    """
    found: dict[str, dict[str, Problem]] = {split: {} for split in SPLITS}
    rng = random.Random(f"{name}:{seed}")
    known, missed = 0, 0
    while missed <= FRUITLESS + 20 * known:  # with one problem left, so many draws miss it once in 10^8 times
        if all(len(found[split]) >= size for split, size in sizes.items()):
            return {split: list(found[split].values())[: sizes[split]] for split in SPLITS}
        one = problem(rng)
        split = found[split_of(one.data.get("same", one.key), SHARES)]
        known, missed = (known, missed + 1) if one.key in split else (known + 1, 0)
        split.setdefault(one.key, one)
    raise ConfigError(f"{name}: no {dict(sizes)} different {what}")
