"""MRT beside outcome GRPO at equal cost, on Countdown: every arm from one warm start per seed, on the same data.

    python -m evals.reasoning.countdown_study              runs what is not stored yet, then prints the table
    python -m evals.reasoning.countdown_study --cached     prints what is stored
    python -m evals.reasoning.countdown_study --check-seed 0      runs a seed again and compares it with what is stored

Results stand under evals/results/countdown_study/; `study.py` says what an arm costs and what is stored of it.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.reasoning import study
from evals.reasoning.study import BASELINE, WARM_START, Family
from evals.reasoning.study_parts import Arm
from evals.reasoning.study_program import run_program

STORE = Path(__file__).resolve().parent.parent / "results" / "countdown_study"
RUNS = Path("runs/countdown_study")
OURS = "mrt_gold"

FAMILIES = {
    "three": Family(cost=3e6, budgets="0,15,30,45,60,75,90,105,120"),
    # Episodes that build on the one before (its first step is kept), and episodes that only repeat it: what the traces
    # of real models are full of, and what progress can tell from the rest.
    "habits": Family(
        cost=3e6, budgets="0,15,30,45,60,75,90,105,120", warmstart=("args.adjust=0.3", "args.recheck=0.4")
    ),
    # Every episode builds on the one before, and the chance of a right answer rises with each that gets further.
    "chains": Family(
        cost=2e6,
        budgets="0,10,20,30,40,50,60,70,80,90,100,110,120",
        everywhere=("problems={name: chains, terms: 8}",),
        warmstart=("args.recheck=0.4", "args.give_up=0.15", "args.attempts_high=14", "args.max_steps=1200"),
    ),
}
ARMS = {
    WARM_START: Arm("warmstart"),
    BASELINE: Arm("grpo"),
    OURS: Arm("mrt"),
    "mrt_sampled": Arm("mrt", ("args.probe=sampled", "args.probe_tolerance=0")),
    # What any verifier allows: two answers a boundary; those that are right are scored at all boundaries of the
    # problem. As recipes/countdown/mrt_verifier.yaml, which the quickstart trains.
    "mrt_pooled": Arm("mrt", ("args.probe=pooled", "args.probe_samples=2", "args.probe_tolerance=0", "args.alpha=5")),
    "mrt_to_go": Arm("mrt", ("args.progress_mode=to-go",)),
    "mrt_discounted": Arm("mrt", ("args.progress_mode=discounted",)),
    "mixed": Arm("mrt", ("args.rollout=mixed", "args.credit=outcome", "args.probe=none", "args.thinking_budget=null")),
}


@dataclass(frozen=True)
class Study(study.Study):
    """The study of Countdown."""

    runs: Path = RUNS
    store: Path = STORE

    program = "evals.reasoning.countdown_study"
    title = "Countdown"
    recipes = "countdown"
    families = FAMILIES
    arms = ARMS
    ours = OURS

    def floor(self, result: Mapping[str, Any]) -> float:
        return random_floor(result)


def random_floor(result: Mapping[str, Any], draws: int = 50) -> float:
    """Accuracy of an answer drawn at random among the expressions that can be worked out (50 draws a test problem)."""
    from mrt.reasoning.problems import load_problems
    from mrt.reasoning.problems.expressions import draw_attempt

    problems = load_problems(**result["recipe"]["problems"]).problems("test")[: len(result["correct"])]
    rng, hits = random.Random(0), 0
    for problem in problems:
        for _ in range(draws):
            attempt = draw_attempt(problem.data["numbers"], problem.data["operations"], 99, rng)
            hits += attempt is not None and attempt.value == problem.data["target"]
    return round(hits / draws / len(problems), 4)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (2: a user's mistake)."""
    return run_program(Study, argv)


if __name__ == "__main__":
    sys.exit(main())
