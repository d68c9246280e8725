r"""Comparisons that need no math-verify: answers spelled alike, and plain numbers and expressions by their values.

Nothing is guessed: a pair is decided where the values agree exactly (or to thirty digits) or differ by more than what
could be rounding, and is math-verify's everywhere else. `tests/mrt/reasoning/grading/test_quick.py` holds the two
together.
"""

from __future__ import annotations

import functools
import re
from fractions import Fraction
from typing import Any, NamedTuple

from mrt.reasoning.grading.arithmetic import DECIMALS, Plain, context, plain, values
from mrt.reasoning.grading.compare import Question
from mrt.reasoning.grading.form import split_list
from mrt.reasoning.grading.plain_reader import NotPlain

# Relative differences that are no rounding. What differs in the seventh digit is, where decimals stand on a side.
APART, APART_ROUNDED = Fraction(1, 10**9), Fraction(1, 10**5)
_MEMBER = re.compile(r"^\s*[a-zA-Z]\s*\\in(?![A-Za-z])\s*(?=[\[(\\])")
_ASSIGNED = re.compile(r"([A-Za-z](?:_\{?\w\}?)?)\s*=\s*([^=]+)")
_THOUSANDS = re.compile(r"\d,\d{3}(?!\d)")
_BRACKETS = {"(": ")]", "[": ")]", "\\{": ("\\}",)}
_SETS = ("", "\\{\\}")
_MATRIX = re.compile(r"\\begin\{([pb]?matrix)\}((?:(?!\\begin).)*)\\end\{\1\}", re.DOTALL)
# What has no value: a division by zero, a power or logarithm of zero, arithmetic with infinity.
_NO_VALUE = re.compile(
    r"/\s*[({]?\s*-?0+(?:\.0*)?(?![\d.])|\}\s*\{\s*-?0+(?:\.0*)?\s*\}|(?<![\d.])0\s*\^|\\infty\s*[-+*/^]"
    r"|\\(?:log|ln|cot|csc)\s*[({]?\s*0(?![\d.])|(?<=[\w)}])\s*(?:[-+*/]|\\cdot|\\times)\s*\\infty"
)
_SORTS = {"matrix": "matrix", "union": "union", "": "set", "\\{\\}": "set"}
MAX_ITEMS = 12


def decide(question: Question) -> bool | None:
    """Whether the two are equal; None where math-verify has to say."""
    if question.same and question.percent in ("", "both"):
        return True if _usable(question) else None
    left, right = (_MEMBER.sub("", text) for text in (question.gold, question.answer))
    (gold, sure), (answer, certain) = _expression(left, right), _expression(right, left)
    if gold is not None and answer is not None:
        found = _percent(gold, answer, question.percent)
        return None if found and not (sure and certain) else found
    if question.percent or _THOUSANDS.search(left) or _THOUSANDS.search(right):
        return None
    ours, theirs = _collection(left), _collection(right)
    if ours is not None and theirs is not None:
        return _collections(ours, theirs)
    single, several = (gold, theirs) if gold is not None else (answer, ours)
    if single is None or several is None or single.loose:
        return None
    return _of_several(single, several)


def _usable(question: Question) -> bool:
    """Whether a gold answer can be used against its own spelling.

    It is, once it holds known commands alone, save for what has no value (1/0); that is math-verify's to say.
    """
    if plain(question.gold) is not None:
        return True
    bare = re.sub(r"\\[A-Za-z]+", "", question.gold)  # of numbers alone `plain` has computed what can be computed
    return question.written and not _NO_VALUE.search(question.gold) and re.search(r"[A-Za-z=<>,\[&]", bare) is not None


def _expression(text: str, other: str) -> tuple[Plain | None, bool]:
    """(the plain expression, also behind `x =`; whether it may be called equal).

    Behind `x =` it may where the other side names the same, or the value is a number.
    """
    found = plain(text)
    assigned = _ASSIGNED.fullmatch(text) if found is None else None
    if assigned is None:
        return found, True
    value, there = plain(assigned.group(2)), _ASSIGNED.fullmatch(other)
    if value is None or (there and there.group(1) != assigned.group(1)) or assigned.group(1) in value.names:
        return None, False
    return value, bool(there) or not value.names


def _equal(gold: Plain, answer: Plain) -> bool | None:
    if gold.loose or answer.loose:
        return None
    return _compared(gold, answer, 1)


def _compared(gold: Plain, answer: Plain, times: int) -> bool | None:
    """Whether gold equals answer / times."""
    try:
        a, b = values(gold), values(answer)
    except NotPlain:
        return None
    points, apart = max(len(a), len(b)), APART_ROUNDED if gold.decimals or answer.decimals else APART
    pairs = list(zip(a * (points if len(a) == 1 else 1), b * (points if len(b) == 1 else 1), strict=True))
    if gold.rational and answer.rational:
        if all(x * times == y for x, y in pairs):
            return True
        return False if any(abs(x * times - y) > apart * (abs(x * times) + abs(y)) for x, y in pairs) else None
    mp = context()
    apart = mp.mpf(apart.numerator) / apart.denominator
    gaps = [_gap(mp, _number(mp, x) * times, _number(mp, y)) for x, y in pairs]
    if any(gap > apart for gap in gaps):
        return False
    names = gold.names | answer.names
    sound = not names or all(one.rational or _only_constants(one) for one in (gold, answer))
    return True if sound and max(gaps) < mp.mpf(10) ** (10 - DECIMALS) else None


def _only_constants(expression: Plain) -> bool:
    """Rational but for \\pi, e and i: no root or function of a name, which has a domain."""

    def walk(node: Any) -> bool:
        if node[0] in ("number", "name", "pi", "e", "i"):
            return True
        if node[0] == "^":
            whole = node[2][0] == "number" and node[2][1].denominator == 1
            return whole and walk(node[1])
        return node[0] in ("+", "*", "/") and walk(node[1]) and walk(node[2])

    return walk(expression.node)


def _number(mp: Any, value: Any) -> Any:
    return mp.mpf(value.numerator) / value.denominator if hasattr(value, "numerator") else value


def _gap(mp: Any, x: Any, y: Any) -> Any:
    scale = abs(x) + abs(y)
    return abs(x - y) / scale if scale else mp.mpf(0)


def _percent(gold: Plain, answer: Plain, signs: str) -> bool | None:
    """As `math_equality._percent`: 0.5 is 50 %, and beside 50 the sign is a unit; but 1 is not 1 %."""
    if signs in ("", "both") or gold.loose or answer.loose:
        return _equal(gold, answer)
    if gold.names or answer.names or not (gold.rational and answer.rational):
        return None
    one = _equal(gold, answer)
    if signs == "gold":
        other = _compared(answer, gold, 100)
    else:
        other = _compared(gold, answer, 100)
        one = one if abs(values(gold)[0]) > 1 else False
    return True if one or other else False if one is False and other is False else None


class _Collection(NamedTuple):
    """A tuple, interval, set, list or matrix: `marks` are its brackets, its rows hold plain items or infinity."""

    marks: str
    rows: tuple[tuple[Plain | str, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(row) for row in self.rows)

    @property
    def items(self) -> list[Plain | str]:
        return [item for row in self.rows for item in row]


@functools.lru_cache(maxsize=4096)
def _collection(text: str) -> _Collection | None:
    """What `text` holds where every item is plain; None for anything else, also for a single item."""
    matrix = _MATRIX.fullmatch(text.strip())
    parts = re.split(r"\\cup(?![A-Za-z])", text)
    if len(parts) > 1:
        pieces = [_collection(piece) for piece in parts]
        known = [piece for piece in pieces if piece is not None and piece.marks not in (*_SETS, "matrix", "union")]
        if len(known) < len(pieces) or any(piece.shape != (2,) for piece in known):
            return None
        rows: list[tuple[Plain | str, ...]] = []
        for piece in known:
            ends: list[Plain | str] = [piece.marks]
            rows.append(tuple(ends + piece.items))
        return _Collection("union", tuple(rows))
    if matrix:
        marks, lines = "matrix", [row.split("&") for row in re.split(r"\\\\", matrix.group(2)) if row.strip()]
    else:
        marks, items = _items(text)
        lines = [items] if 1 < len(items) <= MAX_ITEMS else []
    cells: list[tuple[Plain | str, ...]] = []
    for line in lines:
        read = [found for item in line if (found := _item(item)) is not None]
        cells.append(tuple(read))
    if not cells or any(len(row) != len(line) for row, line in zip(cells, lines, strict=True)):
        return None
    return _Collection(marks, tuple(cells))


def _item(text: str) -> Plain | str | None:
    infinite = re.fullmatch(r"\s*([+-]?)\s*\\infty\s*", text)
    return (infinite.group(1) or "+") if infinite else plain(text.strip())


def _items(text: str) -> tuple[str, list[str]]:
    """(its brackets, its items): of `(1,2]` ("(]", ["1", "2"]); no brackets around a bare list."""
    text = text.strip()
    for opening, closings in _BRACKETS.items():
        closing = next((one for one in closings if text.endswith(one)), None)
        if text.startswith(opening) and closing is not None:
            inside = text[len(opening) : -len(closing)]
            items = split_list(inside)
            if len(items) > 1 and not re.search(r"[()\[\]].*,.*[()\[\]]", inside):
                return opening + closing, items
    return "", split_list(text)


def _collections(gold: _Collection, answer: _Collection) -> bool | None:
    """Two of one sort, item by item; of different sorts and equal items nothing is said."""
    sorts = {_SORTS.get(one.marks, "tuple") for one in (gold, answer)}
    if len(sorts) > 1:
        return None
    if sorts == {"union"}:  # equal ones may be written in other pieces
        same = gold.shape == answer.shape and all(map(_items_equal, gold.items, answer.items))
        return True if same else None
    if sorts == {"set"}:
        return _sets(gold, answer) if gold.marks == answer.marks and gold.shape == answer.shape else None
    if gold.shape != answer.shape:
        return False
    found = [_items_equal(a, b) for a, b in zip(gold.items, answer.items, strict=True)]
    if False in found:
        return False
    return True if all(found) and gold.marks == answer.marks else None


def _sets(gold: _Collection, answer: _Collection) -> bool | None:
    table = [[_items_equal(a, b) for b in answer.items] for a in gold.items]
    if any(all(cell is False for cell in row) for row in table):
        return False
    exact = all(row.count(True) == 1 and row.count(None) == 0 for row in table)
    return True if exact and all(column.count(True) == 1 for column in map(list, zip(*table, strict=True))) else None


def _of_several(single: Plain, several: _Collection) -> bool | None:
    """One value beside a matrix, a tuple or an interval is another answer; beside a list where one of it differs."""
    if several.marks == "matrix" or several.marks not in _SETS:
        return False
    return False if any(_items_equal(single, item) is False for item in several.items) else None


def _items_equal(gold: Plain | str, answer: Plain | str) -> bool | None:
    if isinstance(gold, str) or isinstance(answer, str):
        return gold == answer
    return _equal(gold, answer)
