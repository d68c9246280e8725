"""The answers of Countdown: their grammar, a parser that evaluates it, the list of all its
strings with a given value, and expressions worked out step by step as a search does it.

    answer  = sum, but not a single group        sum  = product {("+" | "-") product}
    product = atom {("*" | "/") atom}            atom = number | "(" sum of two or more numbers, not a single group ")"

So parentheses never stand around one number, around other parentheses alone or around the whole. The grammar is
unambiguous, and each of its strings is one expression tree. Arithmetic is exact (ints, and Fractions after a
division).
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache

Value = int | Fraction
Forms = dict[Value, list[str]]  # strings by their value

OPERATIONS = "+-*/"
MAX_CHARS = 1000
MAX_DEPTH = 32
_SIGNS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_TOKEN = re.compile(r"[0-9]+|[^ \t\r\n]")


class NotAnExpression(ValueError):
    """The text is outside the grammar; the message says why."""


def apply(operation: str, left: Value, right: Value) -> Value | None:
    """left operation right, exactly; None for a division by zero."""
    if operation == "+":
        return left + right
    if operation == "-":
        return left - right
    if operation == "*":
        return left * right
    return Fraction(left) / right if right else None


def evaluate(text: str, operations: str = OPERATIONS) -> tuple[list[int], Value | None]:
    """The numbers of an expression from left to right and its value (None where it divides by zero).

    Raises:
        NotAnExpression: for anything outside the grammar. Linear time; texts above 1,000 characters and more than 32
            parentheses inside each other are refused unread.
    """
    if len(text) > MAX_CHARS:
        raise NotAnExpression(f"the answer has {len(text)} characters, more than {MAX_CHARS}")
    parser = _Parser(_TOKEN.findall(text), operations)
    value, shape = parser.sum(0)
    if parser.position < len(parser.tokens):
        raise NotAnExpression(parser.unexpected("an operation or the end"))
    if shape == "group":
        raise NotAnExpression("parentheses around the whole answer")
    return parser.numbers, value


class _Parser:
    """Recursive descent. Each method returns (value, shape) with shape number, group or operation."""

    def __init__(self, tokens: list[str], operations: str) -> None:
        self.tokens = tokens
        self.operations = operations
        self.position = 0
        self.numbers: list[int] = []

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def unexpected(self, expected: str) -> str:
        found = self.peek()
        if found and found in OPERATIONS and found not in self.operations:
            return f"operation '{found}' is not among the allowed {' '.join(self.operations)}"
        return f"expected {expected}, found {f'{found[:20]!r}' if found else 'the end'}"

    def chain(self, signs: str, depth: int) -> tuple[Value | None, str]:
        operand = self.product if signs == "+-" else self.atom
        value, shape = operand(depth)
        while self.peek() and self.peek() in signs and self.peek() in self.operations:
            operation = self.peek()
            self.position += 1
            right, _ = operand(depth)
            value = None if value is None or right is None else apply(operation, value, right)
            shape = "operation"
        return value, shape

    def sum(self, depth: int) -> tuple[Value | None, str]:
        return self.chain("+-", depth)

    def product(self, depth: int) -> tuple[Value | None, str]:
        return self.chain("*/", depth)

    def atom(self, depth: int) -> tuple[Value | None, str]:
        token = self.peek()
        if token.isascii() and token.isdigit():
            if token != "0" and token.startswith("0"):
                raise NotAnExpression(f"number {token[:20]!r} has a leading zero")
            self.position += 1
            self.numbers.append(int(token))
            return int(token), "number"
        if token != "(":
            raise NotAnExpression(self.unexpected("a number or '('"))
        if depth == MAX_DEPTH:
            raise NotAnExpression(f"more than {MAX_DEPTH} parentheses inside each other")
        self.position += 1
        value, shape = self.sum(depth + 1)
        if self.peek() != ")":
            raise NotAnExpression(self.unexpected("')'"))
        self.position += 1
        if shape == "number":
            raise NotAnExpression("parentheses around a single number")
        if shape == "group":
            raise NotAnExpression("doubled parentheses")
        return value, "group"


def plain(expression: str) -> str:
    """The expression without the parentheses that change nothing: "(3*5)+7" is "3*5+7", "9-(2+4)" stays."""
    return _written(ast.parse(expression, mode="eval").body)[0]


def _written(node: ast.expr) -> tuple[str, int]:
    """The text of an expression, and how tightly its last operation binds: 1 a sum, 2 a product, 3 a number."""
    if not isinstance(node, ast.BinOp):
        return ast.unparse(node), 3
    sign = _SIGNS[type(node.op)]
    own = 1 if sign in "+-" else 2
    (left, before), (right, behind) = _written(node.left), _written(node.right)
    left = f"({left})" if before < own else left
    right = f"({right})" if behind < own or (behind == own and sign in "-/") else right
    return f"{left}{sign}{right}", own


def halves(numbers: Sequence[int]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """All ways to deal sorted numbers to a left and a right hand, neither empty; equal numbers give equal hands
    once."""
    n = len(numbers)
    return sorted(
        {
            (
                tuple(numbers[i] for i in range(n) if mask >> i & 1),
                tuple(numbers[i] for i in range(n) if not mask >> i & 1),
            )
            for mask in range(1, 2**n - 1)
        }
    )


def expressions(numbers: Sequence[int], operations: str, target: Value) -> list[str]:
    """Every string of the grammar that uses each number once and has the value `target`, sorted.

    Operands are combined by value, so the work grows with the number of distinct values rather than of strings.
    """
    lister = _lister(operations)
    found: list[str] = []
    for operation, lefts, rights in lister.pairs(tuple(sorted(numbers)), operations):
        for a, left in lefts.items():
            for b, right in rights.items():
                if apply(operation, a, b) == target:
                    found.extend(f"{x}{operation}{y}" for x in left for y in right)
    lister.longer_known.clear()
    return sorted(found)


@cache
def _lister(operations: str) -> _Lister:
    return _Lister(operations)


class _Lister:
    """All strings over some numbers, by value, for each level of the grammar: atom, product, sum.

    What is known of two numbers serves all problems that hold them; longer lists are dropped after each problem.
    """

    def __init__(self, operations: str) -> None:
        self.operations = operations
        self.pairs_known: dict[tuple[tuple[int, ...], str], Forms] = {}
        self.longer_known: dict[tuple[tuple[int, ...], str], Forms] = {}

    def pairs(self, numbers: tuple[int, ...], operations: str) -> Iterator[tuple[str, Forms, Forms]]:
        """(operation, what may stand left, what may stand right) for the last operation of a chain over `numbers`."""
        for left, right in halves(numbers):
            for operation in operations:
                low, high = ("sum", "product") if operation in "+-" else ("product", "atom")
                yield operation, self.level(left, low), self.level(right, high)

    def level(self, numbers: tuple[int, ...], kind: str) -> Forms:
        """A sum or anything below it, a product or anything below it, or an atom."""
        known = self.pairs_known if len(numbers) <= 2 else self.longer_known
        if (numbers, kind) not in known:
            if kind == "atom":
                forms = self._atoms(numbers)
            elif kind == "product":
                forms = _union(self.level(numbers, "atom"), self._chains(numbers, "*/"))
            else:
                forms = _union(self.level(numbers, "product"), self._chains(numbers, "+-"))
            known[numbers, kind] = forms
        return known[numbers, kind]

    def _atoms(self, numbers: tuple[int, ...]) -> Forms:
        if len(numbers) == 1:
            return {numbers[0]: [str(numbers[0])]}
        inside = _union(self._chains(numbers, "*/"), self._chains(numbers, "+-"))
        return {value: [f"({string})" for string in strings] for value, strings in inside.items()}

    def _chains(self, numbers: tuple[int, ...], signs: str) -> Forms:
        forms: Forms = {}
        for operation, lefts, rights in self.pairs(numbers, "".join(s for s in signs if s in self.operations)):
            for a, left in lefts.items():
                for b, right in rights.items():
                    value = apply(operation, a, b)
                    if value is not None:
                        forms.setdefault(value, []).extend(f"{x}{operation}{y}" for x in left for y in right)
        return forms


def _union(one: Forms, other: Forms) -> Forms:
    return {value: one.get(value, []) + other.get(value, []) for value in {**one, **other}}


@dataclass(frozen=True)
class Attempt:
    """One expression worked out step by step, every intermediate result a whole number from 0 to a limit."""

    steps: str  # "3*5=15,15+7=22"
    expression: str  # "(3*5)+7": parentheses around every operand that is not a number
    value: int
    canonical: str  # the same for two attempts that differ by the order of operands of + or * only
    opened: tuple[tuple[int, str, str], ...] = field(default=(), compare=False)  # what was left after the first step


def step(operation: str, left: int, right: int, limit: int) -> int | None:
    """The result where it is a whole number from 0 to `limit`, else None."""
    value = apply(operation, left, right)
    return int(value) if value is not None and value.denominator == 1 and 0 <= value <= limit else None


def draw_attempt(
    numbers: Sequence[int], operations: str, limit: int, rng: random.Random, begin: Attempt | None = None
) -> Attempt | None:
    """A random attempt: two operands and an operation drawn anew until the step stays within the limit, then the next.

    With `begin` it takes over the first step of that attempt. None where 100 searches in a row end in a dead end.
    """
    for _ in range(100):
        pool = [(n, str(n), str(n)) for n in numbers] if begin is None else list(begin.opened)
        steps: list[str] = [] if begin is None else [begin.steps.split(",")[0]]
        opened = () if begin is None else begin.opened
        for _ in range(50 * len(pool)):
            if len(pool) == 1:
                value, text, canonical = pool[0]
                return Attempt(",".join(steps), text[1:-1], value, canonical, opened)
            i, j = rng.sample(range(len(pool)), 2)
            (a, left, low), (b, right, high) = pool[i], pool[j]
            operation = rng.choice(operations)
            result = step(operation, a, b, limit)
            if result is None:
                continue
            if operation in "+*":
                low, high = sorted((low, high))
            steps.append(f"{a}{operation}{b}={result}")
            merged = (result, f"({left}{operation}{right})", f"({low}{operation}{high})")
            pool = [entry for k, entry in enumerate(pool) if k not in (i, j)] + [merged]
            opened = opened or tuple(pool)
    return None
