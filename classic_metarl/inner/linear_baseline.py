"""The linear-feature baseline: values fitted afresh to each task's own episodes, without a network.

    V(s, t) = w . (s, s^2, t/100, (t/100)^2, (t/100)^3, 1)        w by ridge regression on the rewards-to-go

Duan et al. 2016, 1604.06778, section 4 ("linear baseline with time-varying features"), as used by MAML, E-MAML, ProMP.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrt.credit.grouping import group_sum, rank
from mrt.trials import Trials


def features(observation: Tensor, mask: Tensor) -> Tensor:
    """(B, T, 2 O + 4) of observations (B, T, O), clamped to [-10, 10]; t counts the acting steps of a row."""
    o = observation.clamp(-10, 10)
    time = ((mask.long().cumsum(1) - 1).clamp(min=0).to(o.dtype) / 100)[..., None]
    return torch.cat([o, o.square(), time, time**2, time**3, torch.ones_like(time)], -1)


def linear_values(observation: Tensor, targets: Tensor, trials: Trials, ridge: float = 1e-5) -> Tensor:
    """(B, T) values fitted by least squares to `targets` (B, T) at the acting steps, within each group; 0 elsewhere.

    Args:
        ridge: added to the diagonal of the normal equations; ten times as much, up to five times, while they have no
            finite solution.
    """
    x, ranks = features(observation, trials.mask).double(), rank(trials.group)
    inside = trials.mask.double()[..., None]
    square = group_sum(torch.einsum("btf,btg->bfg", x * inside, x), ranks)
    right = group_sum(torch.einsum("btf,bt->bf", x * inside, targets.double()), ranks)
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    for attempt in range(6):
        weights = torch.linalg.lstsq(square + ridge * 10**attempt * identity, right[..., None]).solution[..., 0]
        if bool(torch.isfinite(weights).all()):
            break
    values = torch.einsum("btf,bf->bt", x, weights[ranks])
    return (values * inside[..., 0]).to(targets.dtype)
