"""Runs gates: trains each system on each seed, measures it on held-out tasks, says what passed.

    python -m evals.gates                         every gate of table.yaml; what is stored is not run again
    python -m evals.gates T1 T3 --seeds 5         some of them, so many seeds each
    python -m evals.gates T1 --cached             prints what is stored
    python -m evals.gates T1 --check-seed 0       runs one seed again and compares it with what is stored
    python -m evals.gates --readme                writes README's table from what is stored

Prints one row a gate, system and measure; exit code 0 only if all pass. Results stand under evals/results/gates/, one
file a gate, system and seed, with commit, recipe, machine and minutes. Interrupted anywhere, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals.gates import readme
from evals.gates.table import SCHEMA_VERSION, Gate, gates
from mrt.errors import ConfigError, MRTError
from mrt.runs.rundir import RunState, inspect_run, read_run, write_json
from mrt.runs.steps import Progress, Step, StepFailed, StepRunner, last_object

STORE = Path(__file__).resolve().parent.parent / "results" / "gates"
RUNS = Path("runs/gates")
COLUMNS = ("gate", "system", "measure", "mean", "se", "seeds", "floor", "ceiling", "paper", "band", "passed", "minutes")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 all passed, 1 not, 2 a mistake in the call."""
    ns = _parser().parse_args(arguments)
    try:
        if ns.readme:
            readme.write(ns.store)
            return 0
        chosen = gates(ns.gates or None, ns.systems)
        if ns.store_one:
            name, system, seed = ns.store_one.split(":")
            (gate,) = (g for g in chosen if (g.name, g.system) == (name, system))
            write_json(_stored(ns.store, gate, int(seed)), measure(gate, ns.runs, int(seed)))
            return 0
        if ns.check_seed is not None:
            return check(chosen, ns)
        if not ns.cached:
            run(chosen, ns)
        seeds = [stored_seeds(ns.store, gate) if ns.cached and not ns.seeds else _seeds(gate, ns) for gate in chosen]
        if not any(seeds):
            seeds = [_seeds(gate, ns) for gate in chosen]  # nothing is there: `table` says so
        rows = [row for gate, have in zip(chosen, seeds, strict=True) if have for row in table(gate, ns.store, have)]
        print(json.dumps(rows, indent=2) if ns.json else text(rows))
        absent = [f"{gate.name} {gate.system}" for gate, have in zip(chosen, seeds, strict=True) if not have]
        if absent:
            print(f"nothing is stored with these settings: {', '.join(absent)}", file=sys.stderr)
        return 0 if not absent and all(row["passed"] for row in rows) else 1
    except MRTError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StepFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1


def run(chosen: Sequence[Gate], ns: argparse.Namespace) -> None:
    """Trains and measures whatever is not stored yet."""
    trained: dict[Path, str] = {}
    steps = [step for gate in chosen for seed in _seeds(gate, ns) for step in _steps(gate, seed, ns, trained)]
    if steps:
        StepRunner(ns.runs, steps, ns.width).run()


def _steps(gate: Gate, seed: int, ns: argparse.Namespace, trained: dict[Path, str]) -> list[Step]:
    """Training and measuring; `trained` names the step that trains a folder: gates share runs of one recipe."""
    if is_stored(ns.store, gate, seed):
        return []
    folder, label = _folder(ns.runs, gate, seed), f"{gate.name}-{gate.system}-{seed}"
    overrides = gate.overrides_for(seed, folder)
    keep = ["--store", str(ns.store), "--runs", str(ns.runs), "--store-one", f"{gate.name}:{gate.system}:{seed}"]
    first = trained.setdefault(folder, label)
    training = Step(
        label,
        [sys.executable, "-m", "mrt", "train", gate.recipe, *overrides, "--json"],
        lambda: inspect_run(folder, gate.load(seed, folder)) is RunState.FINISHED,
        lambda: _progress(folder),
    )
    measuring = Step(
        f"measure-{label}",
        [sys.executable, "-m", "evals.gates", gate.name, *keep],
        lambda: is_stored(ns.store, gate, seed),
        needs=(first,),
    )
    return [training, measuring] if first == label else [measuring]


def _progress(folder: Path) -> Progress:
    row = last_object(folder / "metrics.jsonl", 65_536)
    total = read_run(folder).get("recipe", {}).get("args", {}).get("max_steps", 0)
    return Progress(int(row.get("step") or 0), int(total))


def measure(gate: Gate, runs: Path, seed: int) -> dict[str, Any]:
    """What is stored of one seed: scores, what training took, and where it ran."""
    import torch

    folder, begin = _folder(runs, gate, seed), time.monotonic()
    scores = gate.score(folder, seed)
    run_facts = read_run(folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    spent = [row["cost/env_steps"] for row in rows if "cost/env_steps" in row]
    named = sorted(
        {k.removeprefix("failure/") for k, v in (rows[-2] if len(rows) > 1 else {}).items() if _failed(k, v)}
    )
    return {
        "schema_version": SCHEMA_VERSION,
        "digest": gate.digest(seed),
        "gate": gate.name,
        "system": gate.system,
        "seed": seed,
        "scores": {name: score._asdict() for name, score in scores.items()},
        "failures": named,
        "steps": int(spent[-1]) if spent else None,
        "updates": run_facts.get("steps"),
        "minutes": round(float(run_facts.get("seconds") or 0.0) / 60, 2),
        "measure_minutes": round((time.monotonic() - begin) / 60, 2),
        "commit": run_facts.get("commit") or run_facts.get("git", {}).get("commit"),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__},
    }


def _failed(key: str, value: Any) -> bool:
    return key.startswith("failure/") and isinstance(value, int | float) and value > 0.5


def table(gate: Gate, store: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """One row a measure: mean over seeds, and the larger of the error between seeds and that of the tasks.

    Raises:
        ConfigError: when a seed is not stored with these settings.
    """
    results = []
    for seed in seeds:
        if not is_stored(store, gate, seed):
            raise ConfigError(
                f"{gate.name} {gate.system}: seed {seed} is not stored with these settings. Cure: the same command "
                "without --cached"
            )
        results.append(json.loads(_stored(store, gate, seed).read_text()))
    rows = []
    for name in results[0]["scores"]:
        scores = [result["scores"][name] for result in results]
        means = np.array([score["mean"] for score in scores])
        se = float(np.sqrt(np.mean([score["se"] ** 2 for score in scores]) / len(scores)))
        if len(means) > 1:
            se = max(se, float(means.std(ddof=1) / np.sqrt(len(means))))
        bar, floor = gate.bars.get(name), scores[0]["floor"]
        mean = float(means.mean())
        rows.append(
            {
                "gate": gate.number,
                "system": gate.system,
                "measure": f"{name}_{gate.variant}" if gate.variant else name,
                "mean": round(mean, 4),
                "se": round(se, 4),
                "seeds": [round(float(value), 4) for value in means],
                "floor": _rounded(floor),
                "ceiling": _rounded(scores[0]["ceiling"]),
                "paper": gate.paper.get(name),
                "band": list(bar.band) if bar else None,
                "passed": bar.passed(mean, se, floor) if bar else True,
                "failures": sorted({failure for result in results for failure in result["failures"]}),
                "steps": results[0]["steps"],
                "minutes": round(float(np.mean([result["minutes"] for result in results])), 2),
            }
        )
    return rows


def check(chosen: Sequence[Gate], ns: argparse.Namespace) -> int:
    """Runs one seed again, in a folder of its own, and compares it with what is stored.

    On the same machine with the same versions the figures are equal. Elsewhere rounding takes other turns, which is as
    good as another seed: they agree within 4 errors of the tasks, or 4 deviations between the other
    stored seeds, where there are two.
    """
    again = argparse.Namespace(**{**vars(ns), "runs": ns.runs / "check", "store": ns.runs / "check" / "store"})
    again.seeds, again.only_seed = None, ns.check_seed
    run(chosen, again)
    same = True
    for gate in chosen:
        before, after = (json.loads(_stored(s, gate, ns.check_seed).read_text()) for s in (ns.store, again.store))
        others = _all_stored(ns.store, gate) - {_stored(ns.store, gate, ns.check_seed)}
        seeds = [json.loads(path.read_text())["scores"] for path in sorted(others)]
        for name, score in before["scores"].items():
            new, means = after["scores"][name], [one[name]["mean"] for one in seeds if name in one]
            spread = float(np.std(means, ddof=1)) * 2**0.5 if len(means) > 1 else 0.0
            gap = abs(score["mean"] - new["mean"])
            agrees = gap <= max(4 * float(np.hypot(score["se"], new["se"])), 4 * spread, 1e-6)
            same &= agrees
            verdict = ("equal" if gap == 0 else "agrees") if agrees else "DIFFERS"
            print(
                f"{gate.name} {gate.system} {name}, seed {ns.check_seed}: stored {score['mean']:.4f}, "
                f"again {new['mean']:.4f}: {verdict}"
            )
    return 0 if same else 1


def text(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table for people."""
    cells = [COLUMNS, *(tuple(_cell(row[name]) for name in COLUMNS) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return " ".join(_cell(item) for item in value) if isinstance(value, list) else str(value)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def is_stored(store: Path, gate: Gate, seed: int) -> bool:
    """Whether the result is there and was made with these settings."""
    path = _stored(store, gate, seed)
    return path.is_file() and json.loads(path.read_text()).get("digest") == gate.digest(seed)


def stored_seeds(store: Path, gate: Gate) -> list[int]:
    """The seeds 0, 1, ... that are stored without a gap."""
    seeds: list[int] = []
    while is_stored(store, gate, len(seeds)):
        seeds.append(len(seeds))
    return seeds


def _stored(store: Path, gate: Gate, seed: int) -> Path:
    return store / gate.name / f"{gate.system}-seed{seed}.json"


def _all_stored(store: Path, gate: Gate) -> set[Path]:
    return set((store / gate.name).glob(f"{gate.system}-seed*.json"))


def _folder(runs: Path, gate: Gate, seed: int) -> Path:
    return runs / gate.run_name(seed)


def _seeds(gate: Gate, ns: argparse.Namespace) -> list[int]:
    only = getattr(ns, "only_seed", None)
    return [only] if only is not None else list(range(ns.seeds or gate.seeds))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evals.gates", description=__doc__.split("\n")[0])
    parser.add_argument("gates", nargs="*", help="which gates; all of table.yaml when left out")
    parser.add_argument("--systems", nargs="+", help="only these systems")
    parser.add_argument("--seeds", type=int, help="seeds of each gate (default: what table.yaml says, mostly 3)")
    parser.add_argument("--cached", action="store_true", help="run nothing, print the seeds that are stored")
    parser.add_argument("--check-seed", type=int, help="run this seed again and compare it with what is stored")
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    parser.add_argument("--readme", action="store_true", help="write README's table from what is stored")
    parser.add_argument("--width", type=int, default=1, help="runs side by side (one a core at most)")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where the runs lie")
    parser.add_argument("--store", type=Path, default=STORE, help="where results are stored")
    parser.add_argument("--store-one", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
