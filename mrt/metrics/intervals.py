"""Means with their intervals, as results.json holds them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from mrt.metrics.bootstrap import bootstrap

if TYPE_CHECKING:
    from mrt.reasoning.summary import Samples


def interval(values: Any) -> dict[str, float | None]:
    """{"mean", "low", "high"} of values over problems, NaN left out; None where nothing was measured."""
    kept = np.asarray(values, dtype=float)
    if np.isnan(kept).all():
        return {"mean": None, "low": None, "high": None}
    return asdict(bootstrap(kept))


def plain(value: Any) -> Any:
    """The same with None for every NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def by_episode(samples: Samples, values: Sequence[Any], first: int, hold: bool = False) -> list[dict[str, Any]]:
    """Mean with interval after each episode; `n` traces got that far, episodes that fewer than 10 problems reach are
    left out.

    With `hold` a trace that ended keeps its last value, as in the regret; without it only those that got that far are
    in the mean. Right traces end early, so the mean over the others falls although every trace rises.
    """
    lines = []
    for episode in range(max(map(len, values), default=0)):
        reached = np.array([len(row) > episode and not np.isnan(row[episode]) for row in values])
        column = [
            row[min(episode, len(row) - 1)] if len(row) and (hold or len(row) > episode) else np.nan for row in values
        ]
        means = samples.by_problem(np.array(column))
        means = means[~np.isnan(means)]
        problems = {key for key, here in zip(samples.keys, reached, strict=True) if here}
        if len(problems) >= min(10, len(set(samples.keys))):
            lines.append({"episode": episode + first, "n": int(reached.sum()), **interval(means)})
    return lines
