"""What a population costs: runs of RL2 one by one, on two processes of this machine, and on Ray with two workers.

    python -m evals.speed.population            a table
    python -m evals.speed.population --json     the same as one object

local_over_one_by_one    Wall-clock seconds of `runs` runs on two local processes, over one process at a time.
ray_over_local           The same on a Ray cluster of two CPUs, started beforehand, over two local processes. Skipped,
                         with the reason, where Ray is not installed.

Each run is `mrt train` in a process of its own on every side, one thread. Two processes on the two threads of one core
share what a core has: the first ratio says as much about the machine as about the code.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from evals.speed.common import Timed, compare, interleaved, parser, show
from mrt.errors import ConfigError
from mrt.runs.population import Population
from mrt.runs.recipe import load_recipe
from mrt.runs.workers import LocalWorkers, RayWorkers, Workers

ONE, LOCAL, RAY = "one by one", "two processes", "Ray, two workers"
AT_MOST = {"local_over_one_by_one": 0.55, "ray_over_local": 1.15}


@dataclass(frozen=True)
class Sizes:
    """How many runs, of how many updates each."""

    runs: int = 16
    steps: int = 150
    repetitions: int = 1


SMOKE = Sizes(runs=2, steps=1)


def train_all(workers: Workers, width: int, sizes: Sizes, folder: Path) -> int:
    """Trains the runs from nothing; how many are finished."""
    given = [f"args.max_steps={sizes.steps}", "args.save_strategy=no", "args.logging_steps=50"]
    jobs = [
        load_recipe("control/rl2-two-arms", [*given, f"seed={seed}", f"output_dir={folder / f'seed-{seed}'}"])
        for seed in range(sizes.runs)
    ]
    with Population(folder, workers, width) as population:
        return sum(result.finished for result in population.map(jobs))


def measure(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """Both keys."""
    sides: dict[str, tuple[Workers, int]] = {ONE: (LocalWorkers(), 1), LOCAL: (LocalWorkers(), 2)}
    skipped = ""
    try:
        sides[RAY] = RayWorkers(cpus=2), 2
    except ConfigError as error:
        skipped = str(error)

    def make(name: str, number: int) -> Callable[[], int]:
        workers, width = sides[name]
        return partial(train_all, workers, width, sizes, folder / f"{name}-{number}".replace(" ", "-"))

    timed = interleaved(list(sides), make, sizes.repetitions, "population")
    for name, one in timed.items():
        if one.result != sizes.runs:
            raise ConfigError(f"{name}: {one.result} of {sizes.runs} runs finished, see the logs of the population")
    found = {"local_over_one_by_one": _compared(timed, LOCAL, ONE, "local_over_one_by_one")}
    if skipped:
        return found | {"ray_over_local": {"skipped": skipped}}
    return found | {"ray_over_local": _compared(timed, RAY, LOCAL, "ray_over_local")}


def _compared(timed: Mapping[str, Timed], top: str, bottom: str, key: str) -> dict[str, Any]:
    each = statistics.median(timed[bottom].wall) / timed[bottom].result
    return compare(timed[top], timed[bottom], (top, bottom)) | {"target_at_most": AT_MOST[key], "seconds_a_run": each}


def table(results: Mapping[str, Any]) -> str:
    """What was measured."""
    lines = []
    for key, most in AT_MOST.items():
        one = results[key]
        text = one["skipped"] if "skipped" in one else f"{one['ratio']:.2f} (asked at most {most})"
        lines.append(f"{key}: {text}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser("evals.speed.population", __doc__ or "")
    options.add_argument("--runs", type=int, help=f"instead of {Sizes.runs}")
    ns = options.parse_args(argv)
    sizes = SMOKE if ns.smoke else Sizes()
    sizes = replace(sizes, runs=ns.runs) if ns.runs else sizes
    with tempfile.TemporaryDirectory() as folder:
        results = measure(sizes, Path(folder))
    show(results, ns.json, table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
