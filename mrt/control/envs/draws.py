"""Uniform numbers that are a hash of where they are used, and how one stays within a range that it is moved in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def uniforms(seed: int, indices: np.ndarray, width: int, attempt: int = 0) -> Tensor:
    """(B, width) float32 numbers in [0, 1), each a hash of (seed, index, attempt, column): splitmix64, Steele 2014."""
    with np.errstate(over="ignore"):
        base = _mix(np.uint64(int(seed) % 2**64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(attempt))
        rows = _mix(np.asarray(indices, dtype=np.uint64) ^ base)
        cells = _mix(rows[:, None] + np.arange(1, width + 1, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03))
    return torch.from_numpy(((cells >> np.uint64(40)).astype(np.float64) / 2**24).astype(np.float32))


def _mix(x: Any) -> Any:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def reflected(values: Tensor, low: float, high: float) -> Tensor:
    """Values thrown back into [low, high] from the end that they went past."""
    inside = torch.where(values < low, 2 * low - values, values)
    inside = torch.where(inside > high, 2 * high - inside, inside)
    return inside.clamp(low, high)
