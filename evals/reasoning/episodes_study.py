"""MRT beside outcome GRPO against the number of useful episodes: cycles of 4, 8 or 16 numbers, a step an episode.

    python -m evals.reasoning.episodes_study --family k16             runs what is not stored yet, then prints the table
    python -m evals.reasoning.episodes_study --family k16 --cached    prints what is stored
    python -m evals.reasoning.episodes_study --family k16 --check-seed 1      runs a seed again and compares

The warm start spends two in three of its episodes on repeating the one before, and lets one number in seven that is
not better than the best so far take its place. MRT's probes need a verifier only. Cost and budgets are in proportion to
K, so that every K has about the same number of traces. `episodes_theory` says what to expect. Results stand under
evals/results/episodes_study/.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.reasoning import study
from evals.reasoning.study import BASELINE, WARM_START, Family
from evals.reasoning.study_parts import Arm
from evals.reasoning.study_program import run_program

STORE = Path(__file__).resolve().parent.parent / "results" / "episodes_study"
RUNS = Path("runs/episodes_study")
OURS = "mrt"
DIAL = (4, 8, 16)
TOKENS = 3  # of an episode


def family(k: int) -> Family:
    """Cycles of K numbers: room for 1.25 K episodes, budgets that end with an episode, a cost in proportion to K."""
    episodes = k * 5 // 4
    ends = [TOKENS * count - 1 for count in range(0, episodes + 1, max(1, episodes // 10))]  # the first has no "Wait"
    return Family(
        cost=k * COST_A_NUMBER,
        budgets=",".join(str(max(0, end)) for end in ends),
        everywhere=(f"problems.length={k}",),
        arms=(f"args.thinking_budget={ends[-1]}", f"args.max_completion_length={ends[-1] + 12}"),
    )


COST_A_NUMBER = 1.5e4
FAMILIES = {f"k{k}": family(k) for k in DIAL}
ARMS = {WARM_START: Arm("warmstart"), BASELINE: Arm("grpo"), OURS: Arm("mrt")}


@dataclass(frozen=True)
class Study(study.Study):
    """The study of the number of episodes."""

    runs: Path = RUNS
    store: Path = STORE

    program = "evals.reasoning.episodes_study"
    title = "Cycles"
    recipes = "cycles"
    families = FAMILIES
    arms = ARMS
    ours = OURS
    problems = 300
    seeds = (1, 2, 3)

    def floor(self, result: Mapping[str, Any]) -> float:
        """One number of the cycle drawn at random is the best with chance 1/K."""
        return round(1 / int(self.family.removeprefix("k")), 4)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (2: a user's mistake)."""
    return run_program(Study, argv)


if __name__ == "__main__":
    sys.exit(main())
