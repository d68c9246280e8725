"""Means over all processes: each counts its own values, and what is logged or decided is the same everywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


class Averages:
    """Sums and counts of named values; NaN is not measured. Every process has to name the same ones."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.sums: dict[str, tuple[float, int]] = dict.fromkeys(names, (0.0, 0))

    def add(self, name: str, values: Iterable[float]) -> None:
        """Adds `values` to those of `name`."""
        total, count = self.sums.get(name, (0.0, 0))
        kept = [float(value) for value in values if not math.isnan(value)]
        self.sums[name] = (total + sum(kept), count + len(kept))

    def means(self, accelerator: Any = None) -> dict[str, float]:
        """The mean of every name, over all processes of `accelerator`; NaN where nothing was measured anywhere."""
        names = sorted(self.sums)
        table = torch.tensor([self.sums[name] for name in names], dtype=torch.float64).reshape(-1, 2)
        if accelerator is not None:
            table = summed(table, accelerator)
        return {
            name: total / count if count else math.nan
            for name, (total, count) in zip(names, table.tolist(), strict=True)
        }


def summed(values: Tensor, accelerator: Any) -> Tensor:
    """The sum of `values` (float64) over all processes, on the CPU."""
    if accelerator.num_processes == 1:
        return values
    device = accelerator.device
    wide = values if device.type != "mps" else values.float()
    return accelerator.reduce(wide.to(device), "sum").double().cpu()
