"""The gain that a policy gradient climbs, of trials that were sampled a few updates ago."""

from __future__ import annotations

import torch
from torch import Tensor


def surrogate(ratio: Tensor, advantage: Tensor, clip: float | None = None) -> Tensor:
    """ratio * A, or with a clip min(ratio A, clip(ratio, 1 - c, 1 + c) A): PPO (Schulman et al. 2017, 1707.06347,
    equation 7).

    Args:
        ratio: (...) probability of what was done under the policy now, over that when it was sampled.
        advantage: (...) its weight.
    """
    gain = ratio * advantage
    return gain if clip is None else torch.minimum(gain, ratio.clamp(1 - clip, 1 + clip) * advantage)
