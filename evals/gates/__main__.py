"""Runs gates: trains each system on each seed, measures it on held-out tasks, says what passed.

    python -m evals.gates --width 2               whatever is missing, the longest first
    python -m evals.gates T1 T3 --seeds 5         some of them, so many seeds each
    python -m evals.gates T1 --cached             prints what is stored
    python -m evals.gates T1 --check-seed 0       runs one stored seed again and compares it with what is stored
    python -m evals.gates --results               writes evals/RESULTS.md from what is stored

Prints one row a gate, system and measure; exit code 0 only if all pass. Results stand under evals/results/gates/, one
file a gate, system and seed, with commit, code hash, configuration, machine and minutes. Interrupted anywhere, the same
command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.gates import results
from evals.gates.runner import Runner
from evals.gates.store import GATES, MISSED, Store, rows
from evals.gates.table import Gate, gates
from mrt.errors import MRTError
from mrt.runs.rundir import write_json
from mrt.runs.steps import StepFailed

RUNS = Path("runs/gates")
COLUMNS = (
    *("gate", "system", "measure", "mean", "se", "seeds", "declared_seeds", "tuning_seeds", "floor", "ceiling"),
    *("trivial", "paper", "band", "verdict", "code", "minutes"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 all passed, 1 not, 2 a mistake in the call, 130 interrupted."""
    ns = _parser().parse_args(arguments)
    store = Store(ns.store)
    runner = Runner(ns.runs, store, ns.width)
    try:
        if ns.store_one:
            name, system, seed = ns.store_one.split(":")
            (gate,) = (gate for gate in gates([name], [system]) if gate.name == name)
            write_json(store.path(gate, int(seed)), runner.measure(gate, int(seed)))
            return 0
        if ns.results:
            results.write(store)
            return 0
        chosen = gates(ns.gates, ns.systems)
        if ns.check_seed is not None:
            return 0 if runner.check(chosen, ns.check_seed) else 1
        if not ns.cached:
            runner.run([(gate, seed) for gate in chosen for seed in gate.gate_seeds(ns.seeds)])
        return _show(chosen, store, ns.json)
    except MRTError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StepFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _show(chosen: Sequence[Gate], store: Store, as_json: bool) -> int:
    """Prints the rows, and the gates of which nothing is stored."""
    found = {f"{gate.name} {gate.system}": rows(gate, store) for gate in chosen}
    shown = [row for of_gate in found.values() for row in of_gate]
    print(json.dumps(shown, indent=2) if as_json else text(shown))
    absent = [name for name, of_gate in found.items() if not of_gate]
    if absent:
        print(f"nothing is stored with these settings: {', '.join(absent)}", file=sys.stderr)
    return 0 if not absent and all(row["passed"] is not False for row in shown) else 1


def text(shown: Sequence[dict[str, Any]]) -> str:
    """The rows as a table for people."""
    cells = [COLUMNS, *(tuple(_cell(row[name]) for name in COLUMNS) for row in shown)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


def _cell(value: Any) -> str:
    if value is None or value in ([], {}):
        return "-"
    if isinstance(value, dict):
        return " ".join(f"{key}:{_cell(one)}" for key, one in value.items())
    return " ".join(_cell(item) for item in value) if isinstance(value, list) else str(value).replace(MISSED, "MISSED")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evals.gates", description=__doc__.split("\n")[0])
    parser.add_argument("gates", nargs="*", help="which gates; all of table.yaml when left out")
    parser.add_argument("--systems", nargs="+", help="only these systems")
    parser.add_argument("--seeds", type=int, help="seeds of each gate (default: what table.yaml says, mostly 3)")
    parser.add_argument("--cached", action="store_true", help="run nothing, print what is stored")
    parser.add_argument("--check-seed", type=int, help="run this stored seed again and compare")
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    parser.add_argument("--results", action="store_true", help="write evals/RESULTS.md from what is stored")
    parser.add_argument("--width", type=int, default=1, help="runs side by side (one a core at most)")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where the runs lie")
    parser.add_argument("--store", type=Path, default=GATES, help="where results are stored")
    parser.add_argument("--store-one", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
