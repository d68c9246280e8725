"""One recipe with several seeds, and their aggregate: interquartile mean and stratified bootstrap interval.

Every seed is a run of its own in `OUTPUT_DIR/seed-N`, resumed and finished like any other; `seeds.json` holds the
aggregate (Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice", 2108.13264).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mrt.errors import ConfigError, DataError
from mrt.metrics.bootstrap import Interval, interquartile_mean, percentile_interval
from mrt.runs.recipe import Recipe
from mrt.runs.tracking import METRICS

LAST = 0.25  # of a run's logs: what it had come to
CLOCK = ("time", "runtime", "per_second", "total_flos", "step", "epoch", "learning_rate")


def seeded(recipe: Recipe, count: int) -> list[Recipe]:
    """The recipe with seeds `seed`, `seed + 1`, ..., each with a folder of its own.

    Raises:
        ConfigError: for fewer than two seeds, which say nothing about spread.
    """
    if count < 2:
        raise ConfigError(f"--seeds {count} must be at least 2; leave it out for a single run")
    seeds = range(recipe.seed, recipe.seed + count)
    return [replace(recipe, seed=seed, output_dir=f"{recipe.output_dir}/seed-{seed}") for seed in seeds]


def final_scores(run_dir: Path, share: float = LAST) -> dict[str, float]:
    """{metric: mean over the last `share` of the logs that have it} of metrics.jsonl; no metric of a clock.

    Raises:
        DataError: when there is no metrics.jsonl, or a line of it cannot be read.
    """
    path = run_dir / METRICS
    if not path.is_file():
        raise DataError(f"{run_dir} has no {METRICS}: the run has not logged anything")
    series: dict[str, list[float]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        for name, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and not name.endswith(CLOCK):
                series.setdefault(name, []).append(float(value))
    return {name: math.fsum(tail) / len(tail) for name, tail in ((n, _tail(v, share)) for n, v in series.items())}


def _tail(values: Sequence[float], share: float) -> Sequence[float]:
    return values[-max(1, math.ceil(len(values) * share)) :]


def stratified_interval(scores: ArrayLike, n_boot: int = 2000, seed: int = 0, level: float = 0.95) -> Interval:
    """Interquartile mean over all runs and its percentile interval, runs resampled within each task (strata).

    Args:
        scores: (seeds, tasks), or (seeds,) for one task; every cell measured.

    Raises:
        ValueError: for NaN, or a level outside (0, 1).
    """
    table = np.asarray(scores, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    runs, tasks = table.shape
    rng = np.random.default_rng(seed)
    drawn = rng.integers(runs, size=(n_boot, runs, tasks))
    replicates = interquartile_mean(table[drawn, np.arange(tasks)].reshape(n_boot, -1))
    return percentile_interval(float(interquartile_mean(table.ravel())), replicates, level, units=runs)


def aggregate(scores: Mapping[int, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """{metric: interquartile mean, bounds of the 95 % interval, one value per seed} over {seed: final scores}.

    Metrics that not every seed has are left out.
    """
    shared = set.intersection(*(set(one) for one in scores.values()))
    found = {}
    for name in sorted(shared):
        values = [one[name] for one in scores.values()]
        interval = stratified_interval(values)
        found[name] = {
            "iqm": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "by_seed": {str(seed): value for seed, value in zip(scores, values, strict=True)},
        }
    return found


def table(found: Mapping[str, Mapping[str, Any]], seeds: int) -> str:
    """One line per metric."""
    width = max((len(name) for name in found), default=0)
    lines = [
        f"{name.ljust(width)}  {one['iqm']:.4g} [{one['low']:.4g}, {one['high']:.4g}]" for name, one in found.items()
    ]
    return "\n".join([f"interquartile mean over {seeds} seeds, last quarter of each run [95 % interval]", *lines])
