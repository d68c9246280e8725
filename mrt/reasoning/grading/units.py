r"""Units of measurement: what stands behind a number, and how two of them compare.

A quantity ends in a run of unit words (`\text{ km}/\text{h}`, `m s^{-2}`, `square feet`) and plain nouns (`red
marbles`). Known units become a dimension and a size, so that mph and miles per hour are one unit, 5 m is 500 cm, and
5 m is not 5 s. Nouns have neither. The words themselves stand in `lexicon.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from mrt.reasoning.grading import lexicon


@dataclass(frozen=True)
class Unit:
    """A product of powers: `dimension` over base units, `size` in them (times pi^`pi`), and the nouns beside them."""

    dimension: tuple[tuple[str, int], ...] = ()
    size: Fraction = Fraction(1)
    pi: int = 0
    nouns: frozenset[str] = frozenset()
    known: bool = True  # False where it is nouns alone

    def __bool__(self) -> bool:
        return bool(self.dimension or self.nouns or self.size != 1)

    def power(self, n: int) -> Unit:
        """This unit to the n-th power."""
        dimension = tuple((name, p * n) for name, p in self.dimension)
        return Unit(dimension, self.size**n, self.pi * n, self.nouns, self.known)

    def times(self, other: Unit) -> Unit:
        """The product of two units."""
        powers = dict(self.dimension)
        for name, p in other.dimension:
            powers[name] = powers.get(name, 0) + p
        dimension = tuple(sorted((name, p) for name, p in powers.items() if p))
        return Unit(dimension, self.size * other.size, self.pi + other.pi, self.nouns | other.nouns)


NO_UNIT = Unit(known=False)


def _read_table() -> dict[str, Unit]:
    table: dict[str, Unit] = {}
    prefixed: dict[str, Unit] = {}
    for line in lexicon.UNIT_LINES.strip().splitlines():
        names, _, value = (part.strip() for part in line.partition("|"))
        spellings = names.split()
        size, *factors = value.removesuffix(" SI").split()
        unit = Unit(((spellings[0], 1),))
        if size != "base":
            head, _, tail = size.partition("/")
            pi = int(head == "pi")
            unit = Unit((), Fraction("1" if pi else head) / Fraction(tail or "1"), pi)
            for factor in factors:
                name, _, exponent = factor.partition("^")
                unit = unit.times(table[name].power(int(exponent or "1")))
        for spelling in spellings:
            table[spelling] = unit
        if value.endswith(" SI"):
            for symbol, name in lexicon.PREFIXES.items():
                size_of = Unit((), Fraction(10) ** lexicon.PREFIX_SIZES[name])
                short = [s for s in spellings if len(s) <= 3 and s not in ("gm", "gms", "amp", "lt", "ltr")]
                prefixed.update({symbol + s: size_of.times(unit) for s in short})
                prefixed.update({name + s: size_of.times(unit) for s in spellings if len(s) > 2})
    return {**prefixed, **table}


_TABLE = _read_table()
_LENGTHS = {(("m", 1),)}


def unit_of(word: str) -> Unit | None:
    """The unit that a word names; None where it is none. Symbols keep their case, names do not."""
    found = _TABLE.get(word)
    if found is None and (len(word) > 2 or word in ("KM", "CM", "MM", "Km", "Kg", "KG")):
        found = _TABLE.get(word.lower())
    return found


def in_latex(value: Fraction) -> str:
    """A number as LaTeX."""
    return str(value.numerator) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def scale_between(gold: Unit, answer: Unit) -> str | None:
    """LaTeX to multiply an answer by so that it counts in the unit of the gold one; None where the units differ.

    "" where nothing is to be done: the same size, or one of the two has no unit.
    """
    if not gold or not answer:
        return ""
    if gold.known and answer.known:
        if gold.dimension != answer.dimension:
            return None
        ratio, pi = answer.size / gold.size, answer.pi - gold.pi
        if ratio == 1 and not pi:
            return ""
        return rf"\cdot {in_latex(ratio)}" + {0: "", 1: r" \cdot \pi", -1: r" \cdot \frac{1}{\pi}"}.get(pi, "")
    if gold.known != answer.known:
        return ""
    shared = gold.nouns & answer.nouns or (gold.nouns | answer.nouns) & lexicon.GENERIC_NOUNS
    return "" if shared else None
