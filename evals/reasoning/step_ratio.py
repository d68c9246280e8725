"""An update of MRT beside one of GRPO on the same rollouts: what probes cost in time.

    python -m evals.reasoning.step_ratio MODEL

Both arms train on the same problems with a learning rate of 0, and every update begins from a seed of its own: the rows
sampled are the same, so that only the probes and the credit differ. The arms take turns; at most 6 boundaries a trace,
without the held-out prover (every tenth update). `ratio` is the median over updates of MRT's time over GRPO's, for CPU
time of the process and for wall clock; the first update of each arm is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from mrt.cli.allocator import keep_freed_memory
from mrt.reasoning.training.trainer import MRTTrainer
from mrt.runs.recipe import load_recipe

ARMS: dict[str, dict[str, Any]] = {
    "grpo": {"credit": "outcome", "probe": "none"},
    "sampled": {"credit": "progress", "probe": "sampled"},
    "coupled": {"credit": "progress", "probe": "coupled"},
    "pooled, 2 answers": {"credit": "progress", "probe": "pooled", "probe_samples": 2},
}


class Times(TrainerCallback):
    """Seeds every update by its number, and times it."""

    def __init__(self) -> None:
        self.begun = (0.0, 0.0)
        self.taken: list[tuple[float, float]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        torch.manual_seed(state.global_step)
        self.begun = (time.process_time(), time.perf_counter())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.taken.append((time.process_time() - self.begun[0], time.perf_counter() - self.begun[1]))


def run(
    recipe: str, overrides: Sequence[str], arm: str, updates: int
) -> tuple[list[tuple[float, float]], dict[str, int]]:
    """(CPU, wall) seconds of every update but the first, and what the run cost in positions."""
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            "learning_rate": 0.0, "max_cost": None, "max_steps": updates + 1, "probe_moved": None,
            "probe_tolerance": 0.0, "held_out_prover": "none", "save_strategy": "no", "logging_steps": 1000,
            "report_to": [],
        }  # fmt: skip
        options = common | ARMS[arm]
        given = [f"args.{name}={json.dumps(value)}" for name, value in options.items()]
        trainer = MRTTrainer.from_recipe(load_recipe(recipe, [*given, *overrides]), Path(folder))
        times = Times()
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(times)
        trainer.train()
        return times.taken[1:], trainer.cost()


def measure(recipe: str, overrides: Sequence[str], updates: int, rounds: int) -> dict[str, Any]:
    """The figures above for every arm beside the first."""
    taken: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    costs: dict[str, dict[str, int]] = {}
    for _ in range(rounds):
        for arm in ARMS:
            found, costs[arm] = run(recipe, overrides, arm, updates)
            taken[arm] += found
    base = taken["grpo"]
    sampled = costs["grpo"]["sampled"]
    return {
        arm: {
            "cpu_seconds": statistics.median(cpu for cpu, _ in mine),
            "wall_seconds": statistics.median(wall for _, wall in mine),
            "ratio_cpu": statistics.median(a / b for (a, _), (b, _) in zip(mine, base, strict=True)),
            "ratio_wall": statistics.median(a / b for (_, a), (_, b) in zip(mine, base, strict=True)),
            "probed_over_sampled": costs[arm]["probed"] / sampled,
            "same_rollouts": costs[arm]["sampled"] == sampled,
        }
        for arm, mine in taken.items()
    }


def main(argv: list[str] | None = None) -> int:
    """Parses, measures, prints; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a trained model")
    parser.add_argument("--recipe", default="countdown/mrt")
    parser.add_argument("--updates", type=int, default=3, help="of an arm and round, behind one that is not counted")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], help="further overrides of the recipe, name=value")
    ns = parser.parse_args(argv)
    if argv is None:
        keep_freed_memory()  # as `mrt train` does
    found = measure(ns.recipe, [f"model={ns.model}", *ns.set], ns.updates, ns.rounds)
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
