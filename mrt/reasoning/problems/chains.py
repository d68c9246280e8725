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
from mrt.reasoning.problems.base import Problem
from mrt.reasoning.problems.whole_numbers import WholeNumbers, check_sizes, draw_splits


class Chains(WholeNumbers):
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
        check_sizes(self.name, sizes)
        self.terms, self.high, self.limit = terms, high, limit
        what = f"sums with terms={terms}, high={high}: raise one of them"
        super().__init__(draw_splits(self.name, self._problem, sizes, seed, what))

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
