"""Word problems of arithmetic with their equation: read from published files, worked by template in a few sentences.

Two shapes of rows are known (JSONL, CSV or parquet):

    SVAMP (Patel et al. 2021)               Body, Question, Equation ("( 290.0 / 2.0 )"), Answer
    MAWPS (Koncel-Kedziorski et al. 2016)   input, target: no equation, so the one is taken that has two numbers of the
                                            text and the target as its value; a row with none or several is left out

A worked solution is a few sentences, each a paragraph of its own (the episodes of a thought): what is needed, the
equation of each step, worked by place value where its numbers have several digits, or else a check of the last one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from random import Random
from typing import Any

from mrt.errors import DataError

SVAMP = ("Body", "Question", "Equation", "Answer")
MAWPS = ("input", "target")
NUMBER = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+")
NAMES = {"+": "sum", "-": "difference", "*": "product", "/": "quotient"}
DECIMALS = 2  # of every number of a problem; more are measures in binary ("0.8333333333333334 foot")
MAX_STEPS = 2
SPLIT_BELOW = 1000  # numbers that are worked by place value
_SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


class Unusable(Exception):
    """A row that makes no problem; its message is the reason under which it is counted."""


@dataclass(frozen=True)
class Operation:
    """left sign right = value."""

    left: Fraction
    sign: str
    right: Fraction

    @property
    def value(self) -> Fraction:
        """Raises Unusable for a division by zero."""
        if self.sign == "/" and self.right == 0:
            raise Unusable("its equation divides by zero")
        values = {"+": self.left + self.right, "-": self.left - self.right, "*": self.left * self.right}
        return values[self.sign] if self.sign in values else self.left / self.right

    def __str__(self) -> str:
        return f"{written(self.left)} {self.sign} {written(self.right)} = {written(self.value)}"

    def by_place_value(self) -> tuple[Operation, ...]:
        """The steps in which it is worked by hand: 87 - 13 as 87 - 10, 77 - 3; itself alone where none is saved.

        The right number of a sum, difference or product is split, if it and the left one are whole and below 1,000;
        of a product the left one, if the right one has a single place; of a sum none, if the left one has.
        """
        left, right = self.left, self.right
        if self.sign == "*" and len(_place_values(right)) < 2:
            left, right = right, left
        parts = _place_values(right)
        places = len(_place_values(left))
        if self.sign == "/" or len(parts) < 2 or places < (2 if self.sign == "+" else 1):
            return (self,)
        steps: list[Operation] = []
        if self.sign == "*":
            steps = [Operation(left, "*", part) for part in parts]
            parts = [step.value for step in steps]
            left, parts = parts[0], parts[1:]
        for part in parts:
            steps.append(Operation(left, "-" if self.sign == "-" else "+", part))
            left = steps[-1].value
        return tuple(steps)

    def check(self) -> Operation:
        """The inverse operation, which gives back the left number."""
        return Operation(self.value, {"+": "-", "-": "+", "*": "/", "/": "*"}[self.sign], self.right)


@dataclass(frozen=True)
class WordProblem:
    """A problem, the steps that solve it, and the source that it comes from."""

    text: str
    steps: tuple[Operation, ...]
    source: str

    @property
    def answer(self) -> str:
        """As it is written in the box."""
        return written(self.steps[-1].value)

    @property
    def numbers(self) -> tuple[Fraction, ...]:
        """Of the text, in ascending order."""
        return tuple(sorted(numbers_of(self.text)))

    @property
    def operands(self) -> tuple[Fraction, ...]:
        """The numbers that the equation begins with, in ascending order; results of earlier steps apart."""
        results = [step.value for step in self.steps[:-1]]
        found = [number for step in self.steps for number in (step.left, step.right)]
        for result in results:
            found.remove(result)
        return tuple(sorted(found))


def read_problem(row: Mapping[str, Any], source: str, where: str) -> WordProblem:
    """The problem of one row in either shape.

    Raises:
        Unusable: for a row without one equation of at most two steps that gives the answer, and for numbers that cannot
            be written with two decimals.
        DataError: for a row of neither shape.
    """
    if all(name in row for name in SVAMP):
        text, answer = _joined(str(row["Body"]), str(row["Question"])), _number(row["Answer"], where)
        steps = parse_equation(str(row["Equation"]))
        if steps[-1].value != answer:
            raise Unusable("its equation does not give its answer")
    elif all(name in row for name in MAWPS):
        text, answer = _tidy(str(row["input"])), _number(row["target"], where)
        steps = (infer_operation(numbers_of(text), answer),)
    else:
        raise DataError(f"{where}: the columns {', '.join(row)} are neither {', '.join(SVAMP)} nor {', '.join(MAWPS)}")
    for value in (*numbers_of(text), *(part for step in steps for part in (step.left, step.right, step.value))):
        written(value)
    return WordProblem(text, steps, source)


def parse_equation(text: str) -> tuple[Operation, ...]:
    """The steps of an equation in the order in which they are worked out, such as `( ( 6.0 - 2.0 ) + 7.0 )`.

    Raises:
        Unusable: for one that is no nesting of at most two operations on numbers.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise Unusable("its equation cannot be read") from error
    steps: list[Operation] = []

    def work(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
            step = Operation(work(node.left), _SIGNS[type(node.op)], work(node.right))
            steps.append(step)
            return step.value
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return Fraction(str(node.value))
        raise Unusable("its equation cannot be read")

    work(tree)
    if not 1 <= len(steps) <= MAX_STEPS:
        raise Unusable(f"its equation has not one to {MAX_STEPS} steps")
    return tuple(steps)


def infer_operation(numbers: Sequence[Fraction], answer: Fraction) -> Operation:
    """The one operation on two of the numbers that gives the answer.

    Raises:
        Unusable: where there is none, or more than one.
    """
    found = {operation for operation in _operations(numbers) if operation.value == answer}
    if len(found) != 1:
        raise Unusable("several equations give its answer" if found else "no equation of one step gives its answer")
    return found.pop()


def _operations(numbers: Sequence[Fraction]) -> Iterator[Operation]:
    for a, b in combinations(numbers, 2):
        yield Operation(a, "+", b)
        yield Operation(a, "*", b)
        for left, right in ((a, b), (b, a)):
            yield Operation(left, "-", right)
            if right:
                yield Operation(left, "/", right)


def worked_solution(problem: WordProblem, rng: Random) -> str:
    """Sentences with a blank line between them; what is said besides the equations is drawn.

    A thought says what is needed, or checks its last step, or does both, each of the three as often; what is worked by
    place value is not checked, for length.
    """
    first, last = problem.steps[0], problem.steps[-1]
    plan = f"We need the {NAMES[first.sign]} of {written(first.left)} and {written(first.right)}."
    steps = [part for step in problem.steps for part in step.by_place_value()]
    plain = len(steps) == len(problem.steps) and 0 not in (last.value, last.right)
    checks = [f"Check: {last.check()}."] if plain else []
    kind = rng.randrange(3)
    return "\n\n".join([*([plan] if kind != 1 else []), *(f"{step}." for step in steps), *(checks if kind else [])])


def _place_values(number: Fraction) -> list[Fraction]:
    """Of 205: 200 and 5. Nothing of a number that is not worked by place value."""
    if number.denominator != 1 or not 0 < number < SPLIT_BELOW:
        return []
    digits = str(number.numerator)
    found = [Fraction(int(digit) * 10 ** (len(digits) - 1 - place)) for place, digit in enumerate(digits)]
    return [value for value in found if value]


def numbers_of(text: str) -> list[Fraction]:
    """The numbers written in digits, in their order."""
    return [Fraction(found.replace(",", "")) for found in NUMBER.findall(text)]


def written(value: Fraction) -> str:
    """A number in decimals. Raises Unusable where it needs more than two of them."""
    if value.denominator == 1:
        return str(value.numerator)
    scaled = value * 10**DECIMALS
    if scaled.denominator != 1:
        raise Unusable(f"a number has more than {DECIMALS} decimals")
    return f"{float(value):.{DECIMALS}f}".rstrip("0")


def _number(value: Any, where: str) -> Fraction:
    try:
        return Fraction(str(value))
    except (ValueError, ZeroDivisionError) as error:
        raise DataError(f"{where}: the answer {value!r} is no number") from error


def _joined(body: str, question: str) -> str:
    """SVAMP cuts "If ... , how many ...?" at its comma, and leaves the capital letter."""
    body = body.strip()
    if body[-1:] in ".!?":
        return _tidy(f"{body} {question}")
    return _tidy(f"{body.rstrip(',')}, {question[:1].lower()}{question[1:]}")


def _tidy(text: str) -> str:
    """Without the blanks before points and commas with which tokenised files are written."""
    return re.sub(r"\s+([.,?!]|'s)(?=\s|$)", r"\1", " ".join(text.split()))
