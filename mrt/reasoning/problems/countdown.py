"""Countdown: write an expression that uses each of the given numbers once and equals the target.

Every problem has a solution whose intermediate results are whole numbers from 0 to `max(99, high, target_high)`, so
that it can be worked out step by step. An answer need not keep to that: all of the grammar in `expressions.py`
counts.

A key's split depends on the key alone. Problems of one setting are therefore never trained on and tested under another:
whatever the seed, the range or the sizes, "countdown:3,5,7->22:+-*" belongs to the same split.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from typing import Any

from mrt.errors import ConfigError
from mrt.reasoning.grading.verdict import Grade, Verdict, extract_boxed, split_thought
from mrt.reasoning.problems.base import SPLITS, Problem
from mrt.reasoning.problems.expressions import (
    OPERATIONS,
    NotAnExpression,
    draw_attempt,
    evaluate,
    expressions,
    step,
)
from mrt.tasks import split_of

SHARES = {"train": 0.65, "warmstart": 0.25, "test": 0.10}
PROMPTS = {
    "short": "{numbers}->{target}",
    "words": (
        "Use each of the numbers {numbers} exactly once, with the operations {operations} and parentheses where they "
        "are needed, to write an expression that equals {target}. Give only the expression, in \\boxed{}."
    ),
}
MAX_LISTED = 5  # numbers; six of them have a hundred million answers
MAX_ENUMERATED = 50_000  # sets of two or three numbers; beyond, and for more numbers, keys are drawn


class Countdown:
    """The problem set. Deterministic in its options; nothing is cached on disk.

    Args:
        numbers: how many numbers, 2 to 6; they are drawn from 1..high.
        target_high: targets are 1..target_high.
        operations: some of + - * /, as one string; division is exact.
        train, warmstart, test: how many problems each split has.
        seed: decides which problems of a split are taken, and their order.
        prompt: "short" ("3 5 7->22", for the tiny model), "words" (for a pretrained one), or your own text with
            {numbers} and {target}, {operations} if you like; one that begins as the short one has blanks for commas.

    Raises:
        ConfigError: for options out of range, and for a range with too few keys: it says how many there are and what to
            widen.
    """

    name = "countdown"

    def __init__(
        self,
        *,
        numbers: int = 3,
        high: int = 25,
        target_high: int = 99,
        operations: str = "+-*",
        train: int = 13_000,
        warmstart: int = 5_000,
        test: int = 1_000,
        seed: int = 0,
        prompt: str = "short",
    ) -> None:
        _check("numbers", numbers, 2, 6)
        for dial, value in {"high": high, "target_high": target_high}.items():
            _check(dial, value, 1, 10_000)
        self.sizes = {"train": train, "warmstart": warmstart, "test": test}
        for dial, value in {**self.sizes, "seed": seed}.items():
            _check(dial, value, 0, 2**53)
        if not isinstance(operations, str) or not operations or set(operations) - set(OPERATIONS):
            raise ConfigError(f"countdown: operations must be some of '{OPERATIONS}' as one string, got {operations!r}")
        self.template = PROMPTS.get(prompt, prompt)
        if "{numbers}" not in self.template or "{target}" not in self.template:
            raise ConfigError(
                "countdown: prompt must be 'short', 'words' or a text with {numbers} and {target}, " + f"got {prompt!r}"
            )
        self.numbers, self.high, self.target_high, self.seed = numbers, high, target_high, seed
        self.operations = "".join(sign for sign in OPERATIONS if sign in operations)
        self.limit = max(99, high, target_high)
        self._splits = self._build()

    def problems(self, split: str) -> list[Problem]:
        if split not in SPLITS:
            raise ConfigError(f"countdown has no split '{split}': valid are {', '.join(SPLITS)}")
        return self._splits[split]

    def grade(self, problem: Problem, text: str, opened: bool | None = None) -> Grade:
        r"""The verdict on the last \boxed{} behind the first </think>.

        A text without any tag is a thought that was cut off, unless it holds a box: then it is an answer. `opened`
        settles this where it is known: True, the prompt had opened the thought; False, it had not.
        """
        _, answer = split_thought(text, opened=opened)
        boxed = None if answer is None else extract_boxed(answer)
        untagged = answer == text  # not even a tag tells whether this is thought or answer
        if answer is None or (boxed is None and untagged and opened is None):
            return Grade(Verdict.TRUNCATED, None, "the thought was never closed")
        if boxed is None:
            return Grade(Verdict.UNPARSED, None, "no \\boxed{} in the answer")
        return self.grade_answer(problem, boxed)

    def grade_answer(self, problem: Problem, answer: str) -> Grade:
        shown = answer if len(answer) <= 200 else answer[:200] + "..."
        try:
            used, value = evaluate(answer, problem.data["operations"])
        except NotAnExpression as error:
            return Grade(Verdict.UNPARSED, shown, str(error))
        given, target = list(problem.data["numbers"]), problem.data["target"]
        if sorted(used) != sorted(given):
            return Grade(Verdict.WRONG, shown, f"uses {sorted(used)[:10]} where {sorted(given)} are given")
        if value != target:
            return Grade(Verdict.WRONG, shown, "divides by zero" if value is None else f"equals {value}, not {target}")
        return Grade(Verdict.CORRECT, shown)

    def solutions(self, problem: Problem) -> list[str]:
        """Every string without spaces that `grade_answer` accepts, sorted; [] for six numbers."""
        numbers = problem.data["numbers"]
        if len(numbers) > MAX_LISTED:
            return []
        return expressions(numbers, problem.data["operations"], problem.data["target"])

    def problem(self, numbers: tuple[int, ...] | list[int], target: int, solution: str) -> Problem:
        """The problem with these numbers and target; `solution` is taken on trust."""
        numbers = tuple(sorted(numbers))
        fill = {
            "{numbers}": (" " if self.template.startswith(PROMPTS["short"]) else ", ").join(map(str, numbers)),
            "{target}": str(target),
            "{operations}": " ".join(self.operations),
        }
        prompt = self.template
        for name, text in fill.items():
            prompt = prompt.replace(name, text)
        data = {"numbers": list(numbers), "target": target, "operations": self.operations}
        return Problem(key_of(numbers, target, self.operations), prompt, solution, data)

    def _build(self) -> dict[str, list[Problem]]:
        sets = math.comb(self.high + self.numbers - 1, self.numbers)
        found = self._enumerate() if self.numbers <= 3 and sets <= MAX_ENUMERATED else self._draw()
        splits: dict[str, list[Problem]] = {}
        for split, size in self.sizes.items():
            if len(found[split]) < size:
                raise ConfigError(self._too_few(split, found))
            ordered = sorted(found[split], key=lambda problem: _rank(self.seed, problem.key))
            splits[split] = ordered[:size]
        return splits

    def _enumerate(self) -> dict[str, list[Problem]]:
        found: dict[str, list[Problem]] = {split: [] for split in SPLITS}
        for numbers in itertools.combinations_with_replacement(range(1, self.high + 1), self.numbers):
            for target, solution in reachable(numbers, self.operations, self.limit).items():
                if 1 <= target <= self.target_high:
                    problem = self.problem(numbers, target, solution)
                    found[split_of(problem.key, SHARES)].append(problem)
        return found

    def _draw(self) -> dict[str, list[Problem]]:
        """Keys by random numbers and a random expression over them, until every split is full."""
        found: dict[str, dict[str, Problem]] = {split: {} for split in SPLITS}
        rng = random.Random(f"countdown:{self.seed}")
        for _ in range(10_000 + 30 * sum(self.sizes.values())):
            if all(len(found[split]) >= size for split, size in self.sizes.items()):
                break
            numbers = sorted(rng.randint(1, self.high) for _ in range(self.numbers))
            attempt = draw_attempt(numbers, self.operations, self.limit, rng)
            if attempt is None or not 1 <= attempt.value <= self.target_high:
                continue
            problem = self.problem(numbers, attempt.value, attempt.expression)
            found[split_of(problem.key, SHARES)].setdefault(problem.key, problem)
        return {split: list(problems.values()) for split, problems in found.items()}

    def _too_few(self, split: str, found: dict[str, list[Problem]]) -> str:
        total = sum(map(len, found.values()))
        return (
            f"countdown: {total} keys found with numbers={self.numbers}, high={self.high}, "
            f"target_high={self.target_high}, operations={self.operations}; {len(found[split])} of them belong to "
            f"'{split}' ({SHARES[split]:.0%}), where {self.sizes[split]} are asked for. Widen 'high' (or "
            f"'target_high', 'operations'), or lower '{split}'."
        )


def key_of(numbers: tuple[int, ...] | list[int], target: int, operations: str) -> str:
    """The canonical key: sorted numbers, target, operations in the order + - * /."""
    signs = "".join(sign for sign in OPERATIONS if sign in operations)
    return f"countdown:{','.join(map(str, sorted(numbers)))}->{target}:{signs}"


def reachable(numbers: tuple[int, ...], operations: str, limit: int) -> dict[int, str]:
    """Every value that can be worked out with intermediates in 0..limit, and one expression for it (parentheses
    around every operand that is not a number). For few numbers: all pairs are combined, then all pairs of what is
    left."""
    found: dict[int, str] = {}
    pools = [[(n, str(n)) for n in numbers]]
    while pools:
        pool = pools.pop()
        for i, j in itertools.permutations(range(len(pool)), 2):
            (a, left), (b, right) = pool[i], pool[j]
            rest = [entry for k, entry in enumerate(pool) if k not in (i, j)]
            for operation in operations:
                result = None if i > j and operation in "+*" else step(operation, a, b, limit)
                if result is None:
                    continue
                if rest:
                    pools.append([*rest, (result, f"({left}{operation}{right})")])
                else:
                    found.setdefault(result, f"{left}{operation}{right}")
    return found


def _rank(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


def _check(dial: str, value: Any, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"countdown: {dial} must be a whole number from {low} to {high}, got {value!r}")
