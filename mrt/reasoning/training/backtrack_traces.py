"""Backtracking traces for the warm start: an attempt that fails, "Backtrack to step N", and an attempt that keeps the
first N steps.

    Step 1: 3+5=8
    Step 2: 8*7=56, no

    Backtrack to step 1

    Step 1: 3+5=8
    Step 2: 8+7=15, no

    Backtrack to beginning ...

Kept steps are written again, so that every episode can be read without those before it: old ones may be discarded
(linearised evaluation). Three ways to make the data, as in the paper (Qu et al. 2025, 2503.07572, section 7):

    shared      back to the prefix from which most continuations are right, then on to a right answer (MRT)
    random      back to a random step, then on at random, wherever that leads (RISE)
    rejection   as random, and only traces that end right are kept (STaR)
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from mrt.errors import ConfigError
from mrt.reasoning.problems.base import Problem
from mrt.reasoning.problems.expressions import Attempt, draw_attempt, plain
from mrt.reasoning.training.search_traces import SearchTrace

VARIANTS = ("shared", "random", "rejection")
LOOKS = 40  # continuations that tell how good a prefix is
TRIES = 200  # traces looked at for one that ends right
STEP = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")
Pool = tuple[tuple[int, str, str], ...]


def backtrack_trace(problem: Problem, rng: random.Random, attempts: int, variant: str = "shared") -> SearchTrace | None:
    """A trace of at most `attempts` attempts (1 or more); the answer is the last attempt's expression. None where 200
    traces were rejected.

    Raises:
        ConfigError: for an unknown variant, and a problem that is not of Countdown.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"backtrack={variant!r} is unknown: valid are {', '.join(VARIANTS)}")
    if not {"numbers", "target", "operations"} <= set(problem.data):
        raise ConfigError(f"backtracking traces are made for Countdown only; {problem.key!r} is of another set")
    for _ in range(TRIES if variant == "rejection" else 1):
        trace = _trace(problem, rng, max(1, attempts), shared=variant == "shared")
        if trace.hit or variant != "rejection":
            return trace
    return None


def _trace(problem: Problem, rng: random.Random, attempts: int, shared: bool) -> SearchTrace:
    target, written = problem.data["target"], list[str]()
    attempt = _drawn(problem, rng, _start(problem))
    steps = attempt.steps.split(",")[1:]
    for count in range(1, attempts + 1):
        hit = attempt.value == target
        lines = "\n".join(f"Step {n}: {step}" for n, step in enumerate(steps, start=1))
        written.append(f"{lines}, {'yes' if hit else 'no'}")
        if hit or count == attempts:
            break
        pools = states(problem.data["numbers"], steps)[:-1]
        kept = _best(problem, rng, pools) if shared else rng.randrange(len(pools))
        written[-1] += f"\n\nBacktrack to step {kept}" if kept else "\n\nBacktrack to beginning"
        attempt = _onwards(problem, rng, pools[kept], shared)
        steps = [*steps[:kept], *attempt.steps.split(",")[1:]]
    return SearchTrace("\n\n".join(written), plain(attempt.expression), hit, count)


def states(numbers: Sequence[int], steps: Sequence[str]) -> list[Pool]:
    """What is left to combine before the first step, behind it, and so on: (value, expression, canonical) each."""
    pools: list[Pool] = [tuple((n, str(n), str(n)) for n in numbers)]
    for step in steps:
        match = STEP.fullmatch(step)
        assert match is not None, step
        pool = list(pools[-1])
        pair = []
        for value in (int(match[1]), int(match[3])):
            pair.append(pool.pop(next(i for i, entry in enumerate(pool) if entry[0] == value)))
        (_, left, low), (_, right, high) = pair
        if match[2] in "+*":
            low, high = sorted((low, high))
        merged = (int(match[4]), f"({left}{match[2]}{right})", f"({low}{match[2]}{high})")
        pools.append((*pool, merged))
    return pools


def _start(problem: Problem) -> Pool:
    return states(problem.data["numbers"], ())[0]


def _drawn(problem: Problem, rng: random.Random, pool: Pool) -> Attempt:
    """A random attempt that goes on from `pool`; its first step is empty and stands for those before."""
    limit = max(99, problem.data["target"], *problem.data["numbers"])
    found = draw_attempt((), problem.data["operations"], limit, rng, Attempt("", "", 0, "", pool))
    assert found is not None, f"{problem.key} has no expression that can be worked out"
    return found


def _best(problem: Problem, rng: random.Random, pools: Sequence[Pool]) -> int:
    """How many steps to keep: those from which most continuations are right, as many as possible where several are."""
    right = [sum(_drawn(problem, rng, pool).value == problem.data["target"] for _ in range(LOOKS)) for pool in pools]
    return max(range(len(pools)), key=lambda kept: (right[kept], kept))


def _onwards(problem: Problem, rng: random.Random, pool: Pool, right: bool) -> Attempt:
    """A continuation; with `right` one that hits, where a search finds one."""
    found = _drawn(problem, rng, pool)
    for _ in range(10 * LOOKS if right else 0):
        if found.value == problem.data["target"]:
            break
        found = _drawn(problem, rng, pool)
    return found
