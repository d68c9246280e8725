"""Cycles: multiply by m again and again, modulo 97; which is the largest number on the way that is not above a bound?

"12*8->80" begins at 12 and goes 12, 96, 89, 33, ... A step an episode, the best so far carried along. After as many
steps as the cycle is long, every number has been seen; whoever stops earlier answers with the best so far, so the
chance of a right answer grows with every step. The length of the cycle, the number of useful episodes, is an option. A
step that is only written again changes nothing; a best that is overwritten by a number that may not take its place is
lost.

A problem's split depends on its numbers and its bound, whichever of them it begins at.
"""

from __future__ import annotations

import random

from mrt.errors import ConfigError
from mrt.reasoning.problems.base import Problem
from mrt.reasoning.problems.whole_numbers import WholeNumbers, check_sizes, draw_splits

MODULUS, ROOT = 97, 5  # 5 is a primitive root of 97: its powers reach 1..96
LOWEST_BOUND = 40


class Cycles(WholeNumbers):
    """The problem set. Deterministic in its options; nothing is cached on disk.

    Args:
        length: how many numbers a cycle has, a divisor of 96 from 2 on.
        train, warmstart, test: how many problems each split has.
        seed: decides which problems there are, and their order.

    Raises:
        ConfigError: for options out of range.
    """

    name = "cycles"

    def __init__(
        self,
        *,
        length: int = 8,
        train: int = 3_000,
        warmstart: int = 1_000,
        test: int = 400,
        seed: int = 0,
    ) -> None:
        if not 2 <= length < MODULUS or (MODULUS - 1) % length:
            raise ConfigError(f"cycles: length must divide {MODULUS - 1} and be at least 2, got {length}")
        self.multiplier = pow(ROOT, (MODULUS - 1) // length, MODULUS)
        sizes = {"train": train, "warmstart": warmstart, "test": test}
        check_sizes(self.name, sizes)
        what = f"cycles of length {length}: ask for fewer (there are about 5,000 of each length)"
        super().__init__(draw_splits(self.name, self._problem, sizes, seed, what))

    def _problem(self, rng: random.Random) -> Problem:
        while True:
            start, bound = rng.randint(1, MODULUS - 1), rng.randint(LOWEST_BOUND, MODULUS - 1)
            numbers = cycle(start, self.multiplier)
            if fitting := [number for number in numbers if number <= bound]:
                data = {
                    "numbers_of_cycle": numbers,
                    "bound": bound,
                    "same": f"{min(numbers)}*{self.multiplier}->{bound}",
                }
                text = f"{start}*{self.multiplier}->{bound}"
                return Problem(f"cycles:{text}", text, str(max(fitting)), data)


def cycle(start: int, multiplier: int) -> list[int]:
    """start, start * multiplier, ... modulo 97, each number once: cycle(12, 22) is 12, 70, 85, 27."""
    numbers = [start]
    while (after := numbers[-1] * multiplier % MODULUS) != start:
        numbers.append(after)
    return numbers
