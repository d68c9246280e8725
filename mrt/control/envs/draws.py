"""How a number stays within a range that it is moved in."""

from __future__ import annotations

import torch
from torch import Tensor


def reflected(values: Tensor, low: float, high: float) -> Tensor:
    """Values thrown back into [low, high] from the end that they went past."""
    inside = torch.where(values < low, 2 * low - values, values)
    inside = torch.where(inside > high, 2 * high - inside, inside)
    return inside.clamp(low, high)
