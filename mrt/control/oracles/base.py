"""What several oracles use."""

from __future__ import annotations

from torch import Tensor


def mean_and_se(values: Tensor) -> tuple[float, float]:
    """Mean of (B,) and its standard error."""
    values = values.double()
    return float(values.mean()), float(values.std() / len(values) ** 0.5)
