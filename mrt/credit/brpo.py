"""BRPO: the value of stopping, summed over all remaining budgets."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mrt.credit.grouping import forward_fill, group_max, group_mean, rank, spread, weighable
from mrt.credit.outcome import outcome
from mrt.trials import Trials


def brpo(trials: Trials, prior: Literal["uniform", "linear"] = "uniform") -> Tensor:
    """A_s = R_s - (s V1_s + (S-s) V2_s) / S on the steps of segment s = 0..S-1: BRPO (AnytimeReasoner, Qi et al. 2025,
    2505.13438).

    R_s = sum over t >= s of P_t J_t, V1_s = (sum over t < s of 2^t J_t / sum of 2^t) sum over t >= s of P_t, V2_s = the
    group's mean R_s; J_t is the stop value after segment t, P the prior over budgets (uniform, or linear in t). A trace
    that ended early keeps its last J. The answer's steps get R - mean_g R. No division by a standard deviation.
    """
    if trials.stop_values is None:
        raise ValueError("brpo needs stop values: probe the boundaries")
    ranks = rank(trials.group)
    values = torch.nan_to_num(forward_fill(trials.stop_values.float()))[:, 1:]  # (B, S)
    count = group_max(trials.episodes, ranks)[ranks]  # (B,) S of each group
    segments = torch.arange(values.shape[1], device=values.device)
    prior_weight = (segments < count[:, None]).float() * (
        segments + 1 if prior == "linear" else torch.ones_like(segments)
    )
    prior_weight = prior_weight / prior_weight.sum(1, keepdim=True).clamp(min=1e-12)
    remaining = prior_weight.flip(1).cumsum(1).flip(1)
    gain = (prior_weight * values).flip(1).cumsum(1).flip(1)
    power = 2.0**segments
    before = (power * values).cumsum(1) - power * values
    first = (
        torch.where(segments > 0, before / (power.cumsum(0) - power).clamp(min=1), torch.zeros_like(before)) * remaining
    )
    second = group_mean(torch.where(trials.scored[:, None], gain, torch.full_like(gain, torch.nan)), ranks)[ranks]
    size = count[:, None].clamp(min=1)
    weight = torch.nan_to_num(gain - (segments * first + (size - segments) * second) / size)
    answer = outcome(trials, scale="none")
    return torch.where(trials.episode >= 0, spread(weight, trials), answer) * weighable(trials)
