r"""Plain expressions, read and computed without sympy: numbers, letters, + - * / ^, \frac, \sqrt, \pi and brackets.

Most answers are of this kind, and math-verify takes milliseconds for each. What is not plainly of it is None here, and
math-verify's to read; so is every spelling that could be read in two ways (`1/2x`, `\log 8`, `\sin 2x y`), which is
marked `loose`: it can be the same as itself and nothing else.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from mrt.reasoning.grading.plain_reader import FUNCTIONS, OF_MPMATH, Node, NotPlain, Reader, tokens_of

POINTS = 3  # at which variables are set to random positive numbers
MAX_EXPONENT = 200  # beyond it a power is sympy's
DECIMALS = 40  # of irrational values


@dataclass(frozen=True)
class Plain:
    """A plain expression. `rational`: made of numbers and names by + - * / and whole powers alone."""

    node: Node
    names: frozenset[str]
    rational: bool
    constants: bool  # \pi, e or i among them
    loose: bool
    decimals: bool  # one of its numbers has a point


@functools.lru_cache(maxsize=8192)
def plain(text: str) -> Plain | None:
    """The expression that `text` spells, or None."""
    try:
        tokens = tokens_of(text)
        reader = Reader(tokens)
        node = reader.sum()
        if reader.at != len(tokens):
            return None
        decimals = any(kind == "number" and "." in number for kind, number in tokens)
        found = Plain(node, frozenset(reader.names), reader.rational, reader.constants, reader.loose, decimals)
        values(found)
    except NotPlain:
        return None
    return found


@functools.lru_cache(maxsize=8192)
def values(expression: Plain) -> tuple[Any, ...]:
    """Its values: exact fractions where it is rational, else numbers of DECIMALS digits; one where it has no names.

    Raises:
        NotPlain: for a division by zero, and what is too large.
    """
    found = []
    for point in range(POINTS if expression.names else 1):
        try:
            found.append(_exact(expression.node, point) if expression.rational else _rounded(expression.node, point))
        except (ArithmeticError, ValueError) as error:
            raise NotPlain from error
    return tuple(found)


@functools.lru_cache(maxsize=1024)
def _at(name: str, point: int) -> Fraction:
    rng = random.Random(f"{name}:{point}")
    return Fraction(rng.randint(10**5, 10**6), rng.randint(10**5, 10**6))


def _exact(node: Node, point: int) -> Fraction:
    kind = node[0]
    if kind == "number":
        return Fraction(node[1])
    if kind == "name":
        return _at(node[1], point)
    a, b = _exact(node[1], point), _exact(node[2], point)
    if kind == "^":
        if abs(b) > MAX_EXPONENT or b.denominator != 1:
            raise NotPlain
        return a ** int(b)
    return a + b if kind == "+" else a * b if kind == "*" else a / b


@functools.lru_cache(maxsize=1)
def context() -> Any:
    """mpmath with DECIMALS digits, apart from everybody else's."""
    import mpmath

    found = mpmath.mp.clone()
    found.dps = DECIMALS
    return found


def _rounded(node: Node, point: int) -> Any:
    mp, kind = context(), node[0]
    if kind in ("number", "name"):
        value = node[1] if kind == "number" else _at(node[1], point)
        return mp.mpf(value.numerator) / value.denominator
    if kind in ("pi", "e", "i"):
        return {"pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1)}[kind]
    a = _rounded(node[1], point)
    if kind in FUNCTIONS:
        if kind in ("ln", "log") and a == 0:
            raise NotPlain
        if kind in ("arcsin", "arccos") and (mp.im(a) or abs(a) > 1):
            raise NotPlain
        return getattr(mp, str(OF_MPMATH.get(kind, kind)))(a)
    b = _rounded(node[2], point)
    if kind == "+":
        return a + b
    if kind == "*":
        return a * b
    if kind == "/":
        if abs(b) < mp.mpf(10) ** (5 - DECIMALS):
            raise NotPlain
        return a / b
    if kind == "root":
        if b != int(mp.re(b)) or not 2 <= mp.re(b) <= 20 or (mp.im(a) or a < 0):
            raise NotPlain  # of a negative number there are several
        return mp.root(a, int(b))
    if abs(b) > MAX_EXPONENT or (abs(a) < mp.mpf(10) ** (5 - DECIMALS)):
        raise NotPlain
    if b != int(mp.re(b)) and (mp.im(a) or a < 0):
        raise NotPlain
    return mp.power(a, b)
