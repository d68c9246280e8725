"""Trains each system on each seed, measures it, and stores what came out; runs a stored seed again."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from evals.gates.store import Store
from evals.gates.table import SCHEMA_VERSION, Gate
from mrt.errors import ConfigError
from mrt.runs.rundir import RunState, inspect_run, read_run
from mrt.runs.steps import Progress, Step, StepRunner, last_object

Job = tuple[Gate, int]
"""A gate and a seed."""


@dataclass(frozen=True)
class Runner:
    """Where runs lie, where results are stored, and how many processes run side by side."""

    runs: Path
    store: Store
    width: int = 1

    def run(self, jobs: Sequence[Job]) -> None:
        """Trains and measures whatever is not stored yet, the longest first; interrupted, the same call goes on.

        Gates that go on from a model that is not there are named and left out.
        """
        able = [(gate, seed) for gate, seed in jobs if not self._lacks_model(gate)]
        if steps := self.steps(able):
            StepRunner(self.runs, steps, self.width).run()

    def steps(self, jobs: Sequence[Job]) -> list[Step]:
        """Training and measuring of what is missing, the longest first. Gates share runs of one configuration: the
        first of them trains it.
        """
        missing = [(gate, seed) for gate, seed in jobs if not self.store.read(gate, seed)]
        trained: dict[Path, str] = {}
        return [step for gate, seed in self.longest_first(missing) for step in self._steps(gate, seed, trained)]

    def longest_first(self, jobs: Sequence[Job]) -> list[Job]:
        """By the stored minutes of the system at this gate, else of the gate's others, else of all."""
        stored = {(gate.name, gate.system): self.store.minutes(gate) for gate, _ in jobs}
        known = [minutes for minutes in stored.values() if minutes is not None]

        def estimate(job: Job) -> float:
            own = stored[job[0].name, job[0].system]
            beside = [m for (name, _), m in stored.items() if name == job[0].name and m is not None]
            return own if own is not None else float(np.mean(beside or known or [0.0]))

        return sorted(jobs, key=estimate, reverse=True)

    def folder(self, gate: Gate, seed: int) -> Path:
        """Where the run of one seed lies."""
        return self.runs / gate.run_name(seed)

    def measure(self, gate: Gate, seed: int) -> dict[str, Any]:
        """What is stored of one seed: scores, what training took, and of which configuration and code they are."""
        import torch

        folder, begin = self.folder(gate, seed), time.monotonic()
        scores = gate.score(folder, seed)
        run_facts = read_run(folder)
        logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        spent = [row["cost/env_steps"] for row in logged if "cost/env_steps" in row]
        return {
            "schema_version": SCHEMA_VERSION,
            "gate": gate.name,
            "system": gate.system,
            "seed": seed,
            "digest": gate.digest(seed),
            "commit": run_facts.get("commit"),
            "code": gate.code(),
            "scores": {name: score._asdict() for name, score in scores.items()},
            "failures": _failures(logged[-2] if len(logged) > 1 else {}),
            "steps": int(spent[-1]) if spent else None,
            "updates": run_facts.get("steps"),
            "minutes": round(float(run_facts.get("seconds") or 0.0) / 60, 2),
            "measure_minutes": round((time.monotonic() - begin) / 60, 2),
            "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__},
            "configuration": gate.configuration(seed),
        }

    def check(self, chosen: Sequence[Gate], seed: int) -> bool:
        """Runs one stored seed again, in a folder of its own, and compares it with what is stored.

        On the same machine with the same versions the figures are equal. Elsewhere rounding takes other turns, which
        is as good as another seed: they agree within 4 errors of the tasks, or 4 deviations between the
        other stored seeds, where there are two.

        Raises:
            ConfigError: when the seed is not stored with these settings.
        """
        for gate in chosen:
            if not self.store.read(gate, seed):
                raise ConfigError(
                    f"{gate.name} {gate.system}: seed {seed} is not stored with these settings. Cure: a seed that is "
                    f"({list(self.store.results(gate)) or 'none'}), or the same command without --check-seed"
                )
        again = replace(self, runs=self.runs / "check", store=Store(self.runs / "check" / "store"))
        again.run([(gate, seed) for gate in chosen])
        return all([_agree(gate, seed, self.store, again.store) for gate in chosen])

    def _steps(self, gate: Gate, seed: int, trained: dict[Path, str]) -> list[Step]:
        folder, label = self.folder(gate, seed), f"{gate.name}-{gate.system}-{seed}"
        overrides = gate.overrides_for(seed, folder)
        keep = ["--store", str(self.store.root), "--runs", str(self.runs)]
        first = trained.setdefault(folder, label)
        training = Step(
            label,
            [sys.executable, "-m", "mrt", "train", gate.recipe, *overrides, "--json"],
            lambda: inspect_run(folder, gate.load(seed, folder)) is RunState.FINISHED,
            lambda: _progress(folder),
        )
        measuring = Step(
            f"measure-{label}",
            [sys.executable, "-m", "evals.gates", *keep, "--store-one", f"{gate.name}:{gate.system}:{seed}"],
            lambda: bool(self.store.read(gate, seed)),
            needs=(first,),
        )
        return [training, measuring] if first == label else [measuring]

    @staticmethod
    def _lacks_model(gate: Gate) -> bool:
        model = gate.load(0, Path("run")).model
        lacks = model.startswith("runs/") and not Path(model).exists()
        if lacks:
            print(f"{gate.name} {gate.system} is left out: {model} is not there (make quickstart)", file=sys.stderr)
        return lacks


def _agree(gate: Gate, seed: int, store: Store, again: Store) -> bool:
    before, after = store.read(gate, seed), again.read(gate, seed)
    others = [result["scores"] for other, result in store.results(gate).items() if other != seed]
    same = True
    for name, score in before["scores"].items():
        new, means = after["scores"][name], [one[name]["mean"] for one in others if name in one]
        spread = float(np.std(means, ddof=1)) * 2**0.5 if len(means) > 1 else 0.0
        gap = abs(score["mean"] - new["mean"])
        agrees = gap <= max(4 * float(np.hypot(score["se"], new["se"])), 4 * spread, 1e-6)
        same &= agrees
        verdict = ("equal" if gap == 0 else "agrees") if agrees else "DIFFERS"
        stored, found = f"{score['mean']:.4f}", f"{new['mean']:.4f}"
        print(f"{gate.name} {gate.system} {name}, seed {seed}: stored {stored}, again {found}: {verdict}")
    return same


def _progress(folder: Path) -> Progress:
    row = last_object(folder / "metrics.jsonl", 65_536)
    total = read_run(folder).get("recipe", {}).get("args", {}).get("max_steps", 0)
    return Progress(int(row.get("step") or 0), int(total))


def _failures(row: Mapping[str, Any]) -> list[str]:
    """The failures that the last logged row names."""
    named = {key.removeprefix("failure/"): value for key, value in row.items() if key.startswith("failure/")}
    return sorted(key for key, value in named.items() if isinstance(value, int | float) and value > 0.5)
