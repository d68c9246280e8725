"""Chains: work out a sum of many terms from left to right ("7+12-5+20"). Every step builds on the one before.

Where Countdown is a search whose attempts hit or miss, the chance of a right answer rises here with every step that is
worked out: what is left to do in the head grows shorter. Problems of this kind tell progress from the outcome.

A key is the sum itself; its split depends on the key alone, as for Countdown.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate

from mrt.errors import ConfigError
from mrt.reasoning.grading.verdict import Grade, Verdict, extract_boxed, split_thought
from mrt.reasoning.problems.base import SPLITS, Problem
from mrt.tasks import split_of

SHARES = {"train": 0.65, "warmstart": 0.25, "test": 0.10}


class Chains:
    """The problem set. Deterministic in its options; nothing is cached on disk.

    Args:
        terms: how many numbers, 2 to 20, all different and drawn from 1..high, so that each has one place.
        high: the largest number.
        limit: the running total stays in 0..limit.
        train, warmstart, test: how many problems each split has.
        seed: decides which problems there are, and their order.

    Raises:
        ConfigError: for options out of range.
    """

    name = "chains"

    def __init__(
        self,
        *,
        terms: int = 8,
        high: int = 30,
        limit: int = 99,
        train: int = 13_000,
        warmstart: int = 5_000,
        test: int = 1_000,
        seed: int = 0,
    ) -> None:
        if not 2 <= terms <= 20 or not terms <= high <= limit:
            raise ConfigError(f"chains: 2 <= terms <= 20 and terms <= high <= limit, got {terms}, {high}, {limit}")
        sizes = {"train": train, "warmstart": warmstart, "test": test}
        for dial, value in sizes.items():
            if not 0 <= value <= 1_000_000:
                raise ConfigError(f"chains: {dial} must be a whole number from 0 to 1,000,000, got {value!r}")
        self.terms, self.high, self.limit = terms, high, limit
        self._splits = self._draw(sizes, seed)

    def problems(self, split: str) -> list[Problem]:
        if split not in SPLITS:
            raise ConfigError(f"chains has no split '{split}': valid are {', '.join(SPLITS)}")
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
        shown = answer.strip()[:200]
        if not shown.isascii() or not shown.isdigit() or len(shown) > 9:
            return Grade(Verdict.UNPARSED, shown, "not a whole number")
        if int(shown) != int(problem.solution):
            return Grade(Verdict.WRONG, shown, f"equals {problem.solution}")
        return Grade(Verdict.CORRECT, shown)

    def solutions(self, problem: Problem) -> list[str]:
        """The one answer, as the model writes it."""
        return [problem.solution]

    def _draw(self, sizes: dict[str, int], seed: int) -> dict[str, list[Problem]]:
        """Sums drawn at random until every split is full.

        Raises:
            ConfigError: where there are too few.
        """
        found: dict[str, dict[str, Problem]] = {split: {} for split in SPLITS}
        rng = random.Random(f"chains:{seed}")
        for _ in range(10_000 + 100 * sum(sizes.values())):
            if all(len(found[split]) >= size for split, size in sizes.items()):
                return {split: list(found[split].values())[: sizes[split]] for split in SPLITS}
            problem = self._problem(rng)
            found[split_of(problem.key, SHARES)].setdefault(problem.key, problem)
        raise ConfigError(
            f"chains: no {sizes} different sums with terms={self.terms}, high={self.high}: raise one of them"
        )

    def _problem(self, rng: random.Random) -> Problem:
        signed = [rng.randint(1, self.high)]
        while len(signed) < self.terms:
            total = sum(signed)
            number = rng.randint(1, self.high)
            fits = [sign for sign in (1, -1) if 0 <= total + sign * number <= self.limit]
            if fits and number not in map(abs, signed):
                signed.append(rng.choice(fits) * number)
        text = written(signed)
        return Problem(f"chains:{text}", text, str(sum(signed)), {"terms": signed})


def written(terms: Sequence[int]) -> str:
    """[7, 12, -5] as 7+12-5."""
    return str(terms[0]) + "".join(f"{'+' if term > 0 else '-'}{abs(term)}" for term in terms[1:])


def steps(terms: Sequence[int]) -> list[str]:
    """What is worked out of [7, 12, -5]: 7+12=19, 19-5=14."""
    totals = list(accumulate(terms))
    return [
        f"{before}{'+' if term > 0 else '-'}{abs(term)}={after}"
        for before, term, after in zip(totals[:-1], terms[1:], totals[1:], strict=True)
    ]
