"""Answers whose truth is known by construction: classes of spellings of one value, kind by kind.

Two spellings of a class are equal; spellings of two classes of a kind differ: the values of a kind are distinct by
construction. The first spelling of a class is how a gold answer is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import permutations
from math import gcd

Classes = list[list[str]]
TERMS = [["x^2", "3x", "2"], ["a", "2b", "5"], ["y^3", "xy", "4"], [r"\sqrt{3}", "2", r"\pi"], ["n^2", "7n", "12"]]
UNITS = [("cm", r"\text{ cm}"), ("hours", r"\text{ hours}"), ("kg", r"\mathrm{kg}"), ("m", r"\text{ meters}")]
COMPOUND = [
    ("km", "h", "", "kilometers per hour"),
    ("m", "s", "", "meters per second"),
    ("m", "s", "2", "meters per second squared"),
    ("g", "cm", "3", "grams per cubic centimeter"),
    ("lb", "ft", "2", "pounds per square foot"),
]
WORDS: dict[str, int | Fraction] = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "halves": Fraction(1, 2),
}
WORDS |= {"thirds": Fraction(1, 3), "tenths": Fraction(1, 10), "hundredths": Fraction(1, 100)}
NAMES = ["Zürich", "sí", "Москва", "Tuesday", "no solution", "ellipse", "Evelyn", "東京", "très grand", "isosceles"]


def classes() -> Iterator[tuple[str, list[list[str]]]]:
    """(kind, its classes): lists of spellings, the first of each as a gold answer is written."""
    yield (
        "fractions",
        [_fraction(Fraction(p, q)) for q in (2, 3, 4, 5, 7, 8, 9, 11) for p in range(1, 3 * q) if gcd(p, q) == 1],
    )
    yield "integers", [_integer(n) for n in (*range(2, 40), *range(990, 1040), *range(12_300, 12_330))]
    yield "sums", [_sum(terms, c) for terms in TERMS for c in range(1, 13)]
    yield "products", [_product(a, b) for a in range(1, 9) for b in range(a, 9)]
    yield "surds", [_surd(a, b) for b in (2, 3, 5, 7) for a in range(2, 12)]
    yield "units", [_unit(n, *unit) for unit in UNITS[:1] for n in range(2, 60)]
    yield "other units", [_measured(n, *unit) for n in range(2, 22) for unit in UNITS]
    yield "intervals", [_interval(a, b, *ends) for a in range(-3, 4) for b in (5, 9) for ends in ("[)", "(]", "[]")]
    yield from _more()
    yield "tuples", [[f"({a},{b})", f"({a}, {b})", rf"\left({a},{b}\right)"] for a in range(1, 9) for b in range(1, 9)]
    yield "sets", [[rf"\{{{a},{b}\}}", rf"\{{{b},{a}\}}", f"{b}, {a}"] for a in range(1, 11) for b in range(a + 1, 11)]


def _more() -> Iterator[tuple[str, Classes]]:
    yield "compound units", [_compound(n, *unit) for n in range(2, 18) for unit in COMPOUND]
    yield "converted units", [_converted(n) for n in range(2, 40)]
    yield (
        "complex numbers",
        [_complex(a, b) for a in range(-4, 6) for b in (1, 2, 3, 5)] + [[str(n)] for n in range(1, 9)],
    )
    yield "words that change a value", _worded()
    yield "times of day", [_time(h, m) for h in range(24) for m in (0, 5, 30, 45)]
    yield "ratios", [_ratio(a, b) for a in range(1, 9) for b in range(1, 9) if a != b and gcd(a, b) == 1]
    yield "ratios of three", [_three(a, b) for a in range(1, 8) for b in range(2, 8)]
    yield (
        "percentages",
        [_percentage(p) for p in (*range(1, 100, 2), Fraction(100, 3), Fraction(25, 2), Fraction(50, 3))],
    )
    yield "plus-minus", [_plus_minus(a, b) for a in range(1, 8) for b in (2, 3, 5, 7, 11)]
    yield "indices on e", [_indexed(k) for k in range(1, 20)]
    yield "euler", [_euler(k) for k in range(2, 22)]
    yield "functions", [_function(name, k) for name in ("sin", "cos", "ln", "arctan") for k in range(2, 9)]
    yield "choices", [_choice(letter) for letter in "ABCDEFGH"]
    yield "words", [[rf"\text{{{name}}}", name, rf"\textbf{{{name}}}", f"**{name}**"] for name in NAMES]
    yield "dates", [_date(month, day) for month in ("March", "May", "June", "August") for day in range(2, 29, 3)]
    yield "bases", [_base(n, base) for n in range(4, 20) for base in (2, 3)]
    yield "roots of letters", [_letters(k) for k in range(2, 14)]
    yield "congruences", [_congruence(a, m) for m in (5, 7, 11, 12) for a in range(m)]


def _fraction(value: Fraction) -> list[str]:
    p, q = value.numerator, value.denominator
    forms = [
        rf"\frac{{{p}}}{{{q}}}",
        f"{p}/{q}",
        rf"\dfrac{{{2 * p}}}{{{2 * q}}}",
        rf"\left(\frac{{{p}}}{{{q}}}\right)",
    ]
    forms.append(rf"\frac{{\frac{{{p}}}{{1}}}}{{{q}}}")
    if p > q:
        forms.append(rf"{p // q}\frac{{{p % q}}}{{{q}}}")
    if q in (2, 4, 5, 8):
        forms += [f"{p / q:g}", rf"{100 * p / q:g}\%"]
    return forms


def _integer(n: int) -> list[str]:
    forms = [str(n), f"{n}.0", f"+{n}", rf"\frac{{{2 * n}}}{{2}}", rf"\text{{{n}}}", f"{n - 1}+1"]
    return [*forms, f"{n:,}", f"{n:,}".replace(",", "{,}")] if n >= 1000 else forms


def _sum(terms: list[str], c: int) -> list[str]:
    parts = [*terms[:2], f"{c}{terms[2]}" if not terms[2].isdigit() else str(int(terms[2]) + c)]
    return ["+".join(order) for order in permutations(parts)]


def _product(a: int, b: int) -> list[str]:
    return [
        f"(x+{a})(x+{b})",
        f"(x+{b})(x+{a})",
        f"x^2+{a + b}x+{a * b}",
        rf"(x+{a}) \cdot (x+{b})",
        f"{a * b}+{a + b}x+x^2",
    ]


def _surd(a: int, b: int) -> list[str]:
    return [
        rf"{a}\sqrt{{{b}}}",
        rf"\sqrt{{{b}}}\cdot {a}",
        rf"\sqrt{{{a * a * b}}}",
        rf"\frac{{{a * b}}}{{\sqrt{{{b}}}}}",
    ]


def _unit(n: int, name: str, written: str) -> list[str]:
    return [f"{n}{written}", f"{n} {name}", str(n), rf"{n}.0\text{{ {name}}}"]


def _measured(n: int, name: str, written: str) -> list[str]:
    """Without the bare number, which is right whatever the unit."""
    return [f"{n}{written}", f"{n} {name}", rf"{n}.0\text{{ {name}}}"]


def _interval(a: int, b: int, left: str, right: str) -> list[str]:
    return [
        f"{left}{a},{b}{right}",
        rf"\left{left}{a}, {b}\right{right}",
        rf"{left}{2 * a}/2,\frac{{{2 * b}}}{{2}}{right}",
    ]


def _compound(n: int, above: str, below: str, power: str, words: str) -> list[str]:
    caret = f"^{power}" if power else ""
    return [
        rf"{n}\ \text{{{above}}}/\text{{{below}}}{caret}",
        rf"{n} \, \mathrm{{{above}/{below}{caret}}}",
        rf"{n}\,\frac{{\text{{{above}}}}}{{\text{{{below}}}{caret}}}",
        rf"{n} \text{{ {words}}}",
        rf"{n}\ \mathrm{{{above}}}\,\mathrm{{{below}}}^{{-{power or 1}}}",
        f"{n} {above}/{below}{caret}",
    ]


def _converted(n: int) -> list[str]:
    return [rf"{n}\text{{ m}}", rf"{100 * n}\text{{ cm}}", rf"{1000 * n} \text{{ millimeters}}", rf"{n} m"]


def _complex(a: int, b: int) -> list[str]:
    times = "" if b == 1 else str(b)
    real = str(a) if a else ""
    plus = "+" if a else ""
    forms = [rf"{real}{plus}{times}\mathrm{{i}}", f"{real}{plus}{times}i", rf"{real}{plus}{times}\text{{i}}"]
    return [*forms, rf"{times}i{a:+d}", rf"{real}{plus}{times}\operatorname{{i}}"] if a else forms


def _worded() -> Classes:
    found: dict[Fraction, list[str]] = {}
    for n in range(2, 40):
        found.setdefault(Fraction(n), []).append(str(n))
    for n in range(2, 30):
        for word, factor in WORDS.items():
            found.setdefault(Fraction(n * factor), []).append(rf"{n}\text{{ {word}}}")
        found.setdefault(Fraction(n * n), []).append(rf"{n} \text{{ squared}}")
    plain = {
        value: str(value) if value.denominator == 1 else f"{value.numerator}/{value.denominator}" for value in found
    }
    return [list(dict.fromkeys([plain[value], *spellings])) for value, spellings in sorted(found.items())]


def _time(hour: int, minute: int) -> list[str]:
    mark, twelve = ("PM" if hour >= 12 else "AM"), (hour - 1) % 12 + 1
    dotted = f"{mark[0].lower()}.m."
    return [
        rf"{twelve}:{minute:02d} \text{{ {dotted}}}",
        f"{twelve}:{minute:02d} {mark}",
        rf"\text{{{twelve}:{minute:02d} {mark}}}",
    ]


def _ratio(a: int, b: int) -> list[str]:
    return [
        f"{a}:{b}",
        f"{a} : {b}",
        rf"{a} \text{{ to }} {b}",
        f"{a} to {b}",
        rf"\frac{{{a}}}{{{b}}}",
        rf"{a}\text{{:}}{b}",
    ]


def _three(a: int, b: int) -> list[str]:
    return [f"{a}:{b}:1", f"{2 * a}:{2 * b}:2", f"{a} : {b} : 1", rf"{a}\text{{ to }}{b}\text{{ to }}1"]


def _percentage(p: int | Fraction) -> list[str]:
    value = Fraction(p)
    whole, rest = divmod(value.numerator, value.denominator)
    written = str(whole) if not rest else rf"{whole}\frac{{{rest}}}{{{value.denominator}}}"
    part = value / 100
    return [
        rf"{written}\%",
        rf"{written} \text{{ percent}}",
        rf"\frac{{{part.numerator}}}{{{part.denominator}}}",
        f"{written}%",
    ]


def _plus_minus(a: int, b: int) -> list[str]:
    r = rf"\sqrt{{{b}}}"
    return [
        rf"\frac{{-{a} \pm {r}}}{{2}}",
        rf"\frac{{-{a}+{r}}}{{2}}, \frac{{-{a}-{r}}}{{2}}",
        rf"x = \frac{{-{a} \pm {r}}}{{2}}",
        rf"\frac{{-{a}-{r}}}{{2}} \text{{ or }} \frac{{-{a}+{r}}}{{2}}",
    ]


def _indexed(k: int) -> list[str]:
    return [
        rf"\frac{{1}}{{{k}}} E_{{1}}+\frac{{2}}{{{k}}} E_{{2}}",
        rf"\frac{{E_1+2E_2}}{{{k}}}",
        rf"\frac{{2E_2}}{{{k}}} + \frac{{E_1}}{{{k}}}",
    ]


def _euler(k: int) -> list[str]:
    return [
        rf"1 - \frac{{{k}}}{{\mathrm{{e}}}}",
        rf"1-\frac{{{k}}}{{e}}",
        rf"1-{k}{{\rm e}}^{{-1}}",
        rf"-{k}/\operatorname{{e}}+1",
    ]


def _function(name: str, k: int) -> list[str]:
    return [
        rf"\{name} {k}x",
        rf"\mathrm{{{name}}}({k}x)",
        rf"\operatorname{{{name}}}({k} x)",
        rf"\{name}({k}x)",
        f"{name}({k}x)",
    ]


def _choice(letter: str) -> list[str]:
    return [
        letter,
        f"({letter})",
        rf"\text{{{letter}}}",
        rf"\textbf{{({letter})}}\ 12",
        f"{letter}: the area",
        f"({letter}) 7",
    ]


def _date(month: str, day: int) -> list[str]:
    return [
        rf"\text{{{month} {day}}}",
        f"{month} {day}",
        rf"\text{{{month} }}{day}",
        rf"\text{{{month.lower()}}} {day}",
    ]


def _base(n: int, base: int) -> list[str]:
    digits, rest = "", n
    while rest:
        digits, rest = str(rest % base) + digits, rest // base
    return [
        f"{digits}_{base}",
        rf"({digits})_{{{base}}}",
        rf"{digits}_{{\text{{{'two' if base == 2 else 'three'}}}}}",
        rf"{digits} \text{{ base }} {base}",
    ]


def _letters(k: int) -> list[str]:
    return [
        rf"\sqrt{{\frac{{{k}h}}{{g}}}}",
        rf"\frac{{\sqrt{{{k}h}}}}{{\sqrt{{g}}}}",
        rf"\sqrt{{{k}}}\sqrt{{h}}g^{{-1/2}}",
        rf"\sqrt{{{k}h/g}}",
    ]


def _congruence(a: int, m: int) -> list[str]:
    return [
        rf"n \equiv {a} \pmod{{{m}}}",
        rf"n \equiv {a} \pmod {m}",
        rf"n\equiv {a + m} \pmod{{{m}}}",
        rf"n \equiv {a} (\bmod {m})",
    ]
