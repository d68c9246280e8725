"""Outcome credits: every step of a trial gets the trial's own return, against its group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mrt.credit.grouping import group_mean, group_std, group_sum, rank
from mrt.errors import ConfigError, nearest
from mrt.trials import Trials

Gather = Callable[[Tensor], Tensor]
Scale = Literal["group", "batch", "none", "mean"]

SCALES = ("group", "batch", "none", "mean")


def outcome(trials: Trials, scale: Scale = "group", eps: float = 1e-4, gather: Gather | None = None) -> Tensor:
    """A = (R - mean_g R) / (s + eps), the same for every step of a row: GRPO (Shao et al. 2024, 2402.03300, section
    4.1.1).

    `scale="none"` is Dr. GRPO (2503.20783); `mean` divides by the group's mean reward and adds no eps (MaxRL,
    2602.02710: rare successes weigh more). `batch` divides by the standard deviation over the whole batch, which
    `gather` collects from the other processes. Standard deviations are unbiased. Unscorable rows get 0 and take no part
    in any statistic.
    """
    reward, ranks = trials.returns, rank(trials.group)
    mean = group_mean(reward, ranks)[ranks]
    if scale == "group":
        deviation = group_std(reward, ranks)[ranks]
    elif scale == "batch":
        everyone = gather(reward) if gather else reward
        everyone = everyone[~everyone.isnan()]
        deviation = everyone.std() if len(everyone) > 1 else torch.zeros(())
    elif scale == "mean":
        if bool((reward < 0).any()):
            raise ConfigError("scale='mean' divides by the mean reward: it takes rewards of at least 0. Cure: 'group'")
        deviation, eps = torch.where(mean > 0, mean, torch.ones_like(mean)), 0.0
    elif scale != "none":
        raise ConfigError(f"scale={scale!r} is no scaling of the outcome; {nearest(str(scale), SCALES)}")
    advantage = reward - mean
    if scale != "none":
        advantage = advantage / (deviation + eps)
    return torch.nan_to_num(advantage, nan=0.0)[:, None] * trials.mask


def leave_one_out(trials: Trials) -> Tensor:
    """A_b = R_b - mean of the other rows of its group: RLOO (Ahmadian et al. 2024, 2402.14740, equation 8). A lone row
    gets 0.
    """
    reward, ranks = trials.returns, rank(trials.group)
    count = group_sum((~reward.isnan()).float(), ranks)[ranks]
    centred = torch.nan_to_num(reward - group_mean(reward, ranks)[ranks], nan=0.0)
    return (centred * count / (count - 1).clamp(min=1))[:, None] * trials.mask
