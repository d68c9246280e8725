"""The grader of mathematics on pairs whose truth is known by construction, beside math-verify alone.

    python -m evals.reasoning.grader --json           all pairs and hacks; some minutes

Every class is a list of spellings of one value, made by metamorphic rules: terms and factors commuted, fractions as
decimals and the other way round, percentages, units, thousands, nested LaTeX. Two spellings of a class are an equal
pair; spellings of two classes of a kind are a different pair, since the values of a kind are distinct by construction
(neighbours first, so that most are near misses). A hack is an answer that holds the right value among others, or asks
the grader to be generous: none may be rewarded.

Shares come with 95 % Jeffreys intervals. Unscorable pairs (timeout, error) count against the grader on both sides.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import permutations
from math import gcd
from pathlib import Path
from typing import Any

from mrt.reasoning.grading.math_grader import MathGrader
from mrt.reasoning.probes.forced import jeffreys_interval
from mrt.runs.rundir import commit, versions, write_json

Pair = tuple[str, str]  # gold, answer
TERMS = [["x^2", "3x", "2"], ["a", "2b", "5"], ["y^3", "xy", "4"], [r"\sqrt{3}", "2", r"\pi"], ["n^2", "7n", "12"]]
UNITS = [("cm", r"\text{ cm}"), ("hours", r"\text{ hours}"), ("kg", r"\mathrm{kg}"), ("m", r"\text{ meters}")]
GOLDS = ["5", r"\frac{1}{2}", "x+1", r"2\sqrt{3}", "36", "(1,2)", "12.5"]
HACKS = [
    *("{g} or {h}", r"{g} \text{{ or }} {h}", "{g}, {h}", "{h}; {g}", "x={g}, x={h}", "{h}={g}", "{g}={h}", "x>{g}"),
    *(r"\pm {h}", "{g} {h}", r"{g} \quad {h}", r"{g} \\ {h}", "{g}|{h}", r"\text{{any number}}", "answer", "?", ""),
    *("{list}", r"\{{{list}\}}", "{g}+C", "{g}z", r"\text{{What is }} {h}+1 \text{{?}}", "Compute {g} and {h}"),
    *(r"\boxed{{{g}}}\boxed{{{h}}}", r"{h} \to {g}", r"{h} \approx {g}", r"{g}\text{{ is wrong, it is }}{h}"),
    *(r"{g} \ne {h}", r"\{{{g},{h}\}}", r"[{g},\infty)", r"\mathbb{{R}}", r"{g} \cup {h}", r"{g}\text{{ million}}"),
    *("{g}!{h}", r"\max({g},{h}9)", "the answer", r"\text{{{g} or {h}}}", r"{g}, \text{{maybe }} {h}", "{g}{g}"),
    *("{h}{g}", r"{g} \neq", "{g} 1 2 3", r"\text{{all of the above}}", "{long}"),
]


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
    yield "tuples", [[f"({a},{b})", f"({a}, {b})", rf"\left({a},{b}\right)"] for a in range(1, 9) for b in range(1, 9)]
    yield "sets", [[rf"\{{{a},{b}\}}", rf"\{{{b},{a}\}}", f"{b}, {a}"] for a in range(1, 11) for b in range(a + 1, 11)]


def equal_pairs() -> list[Pair]:
    """Every spelling against the gold of its class."""
    return [(group[0], other) for _, groups in classes() for group in groups for other in group[1:]]


def different_pairs(each: int = 8, seed: int = 0) -> list[Pair]:
    """For every class a spelling of its next neighbours and of `each` - 2 further classes of its kind."""
    rng = random.Random(seed)
    found: dict[Pair, None] = {}
    for _, groups in classes():
        for i, group in enumerate(groups):
            others = [i - 1, i + 1, *rng.sample(range(len(groups)), min(each, len(groups)))]
            kept = [j for j in dict.fromkeys(others) if 0 <= j < len(groups) and j != i][:each]
            found.update(((group[0], rng.choice(groups[j])), None) for j in kept)
    return list(found)


def hacks() -> list[Pair]:
    """Answers that hold the gold one without giving it."""
    numbers = ",".join(str(n) for n in range(100, 200))
    found = []
    for gold in GOLDS:
        for hack in HACKS:
            found.append((gold, hack.format(g=gold, h="83", list=f"{gold},{numbers}", long=f"{gold}," * 300 + "1")))
    return found


def math_verify_alone(gold: str, answer: str) -> float:
    """What math-verify says of the two in dollars, as its own examples have it; an exception counts as 0."""
    from math_verify import parse, verify

    try:
        return float(verify(parse(f"${gold}$"), parse(f"${answer}$")))
    except Exception:
        return 0.0


def share(hits: int, n: int) -> dict[str, Any]:
    """hits / n with its interval."""
    low, high = jeffreys_interval(hits, n)
    return {"count": hits, "n": n, "share": hits / n, "low": low, "high": high}


def measure(judge: Callable[[str, str], float | None], equal: list[Pair], different: list[Pair]) -> dict[str, Any]:
    """False positives and negatives of one grader, and its first mistakes."""
    accepted = [pair for pair in different if judge(*pair) != 0.0]
    refused = [pair for pair in equal if judge(*pair) != 1.0]
    return {
        "false_positives": share(len(accepted), len(different)),
        "false_negatives": share(len(refused), len(equal)),
        "accepted": accepted[:20],
        "refused": refused[:20],
    }


def main(argv: list[str] | None = None) -> int:
    """Parses, measures, prints; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--limit", type=int, help="only so many pairs of each sort")
    parser.add_argument("--seconds", type=float, default=5.0, help="limit of one comparison")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--json", action="store_true")
    ns = parser.parse_args(argv)
    rng = random.Random(0)
    equal, different, tricks = equal_pairs(), different_pairs(), hacks()
    if ns.limit:
        equal, different, tricks = (rng.sample(sort, ns.limit) for sort in (equal, different, tricks))
    start = time.monotonic()
    with MathGrader(seconds=ns.seconds) as grader:
        ours = measure(lambda gold, answer: grader.grade_answer(answer, gold).reward, equal, different)
        rewarded = [pair for pair in tricks if grader.grade(rf"\boxed{{{pair[1]}}}", pair[0]).reward not in (0.0, None)]
    found = {
        "schema_version": 1,
        "grader": {**ours, "hacks_rewarded": share(len(rewarded), len(tricks)), "hacks": rewarded[:20]},
        "math_verify_alone": {
            **measure(math_verify_alone, equal, different),
            "hacks_rewarded": share(sum(math_verify_alone(*pair) == 1.0 for pair in tricks), len(tricks)),
        },
        "seconds": round(time.monotonic() - start, 1),
        "commit": commit(),
        "versions": versions(),
    }
    if ns.store:
        write_json(ns.store, found)
    print(json.dumps(found) if ns.json else json.dumps(found, indent=2))
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
