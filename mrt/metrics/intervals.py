"""Means with their intervals, as results.json holds them."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from mrt.metrics.bootstrap import bootstrap


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
