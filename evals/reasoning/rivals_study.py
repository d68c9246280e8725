"""MRT and its rivals at equal cost, on Countdown with habits: every arm from one warm start per seed, on the same data.

    python -m evals.reasoning.rivals_study                        runs what is not stored yet, then prints the table
    python -m evals.reasoning.rivals_study --arms grpo mrt dapo   some arms
    python -m evals.reasoning.rivals_study --cached               prints what is stored

Results stand under evals/results/rivals/; `study.py` says what an arm costs and what is stored of it. L1 is asked for
the full budget where it is measured.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.reasoning import study
from evals.reasoning.countdown_study import random_floor
from evals.reasoning.study import BASELINE, WARM_START, Family
from evals.reasoning.study_parts import Arm
from evals.reasoning.study_program import run_program

STORE = Path(__file__).resolve().parent.parent / "results" / "rivals"
RUNS = Path("runs/rivals_study")
OURS = "mrt"
RIVALS = (
    "dr_grpo",
    "rloo",
    "maxrl",
    "gspo",
    "dapo",
    "length_penalty",
    "s_grpo",
    "brpo",
    "vineppo",
    "spo",
    "watermark",
    "late",
    "likelihood",
    "verifree",
    "spae",
    "adapt_think",
    "star",
    "mrt_star",
)
FAMILIES = {"habits": Family(cost=3e6, budgets="0,15,30,45,60,75,90,105,120")}
ASKED = ("problems.prompt={numbers}->{target},120",)  # L1's prompts name a number of tokens
ARMS = {name: Arm(name) for name in (WARM_START, BASELINE, OURS, *RIVALS)}
ARMS |= {name: Arm(name, evaluation=ASKED) for name in ("l1", "l1_max")}


@dataclass(frozen=True)
class Study(study.Study):
    """The study of rivals. SCoRe is no arm: it is measured with two attempts (`evals.reasoning.attempts`)."""

    runs: Path = RUNS
    store: Path = STORE

    program = "evals.reasoning.rivals_study"
    title = "MRT and rivals"
    recipes = "rivals"
    families = FAMILIES
    arms = ARMS
    ours = OURS

    def floor(self, result: Mapping[str, Any]) -> float:
        return random_floor(result)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (2: a user's mistake)."""
    return run_program(Study, argv)


if __name__ == "__main__":
    sys.exit(main())
