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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evals.reasoning.grader_pairs import classes
from mrt.reasoning.grading.math_grader import MathGrader
from mrt.reasoning.probes.forced import jeffreys_interval
from mrt.runs.rundir import commit, versions, write_json

Pair = tuple[str, str]  # gold, answer
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


if __name__ == "__main__":
    sys.exit(main())
