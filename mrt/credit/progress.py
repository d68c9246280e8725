"""Progress credit, the MRT objective: every episode is paid for what it changes in the value of stopping."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mrt.credit.grouping import (
    group_mean,
    interpolate,
    rank,
    spread,
)
from mrt.credit.outcome import Gather, outcome
from mrt.errors import ConfigError, nearest
from mrt.trials import Trials


def progress(
    trials: Trials,
    alpha: float = 1.0,
    mode: Literal["immediate", "to-go", "discounted", "trace"] = "immediate",
    gamma: float = 0.9,
    center: Literal["none", "depth"] = "none",
    unmeasured: Literal["zero", "spread"] = "zero",
    scale: Literal["group", "batch", "none"] = "group",
    eps: float = 1e-4,
    gather: Gather | None = None,
) -> Tensor:
    """A[b,t] = (R_b - mean_g R) / (s_g + eps) + alpha w_e(t): the MRT objective (Qu et al. 2025, 2503.07572, definition
    6.1 and the objective of section 6), e(t) the episode of step t. Steps outside any episode (the answer) get the
    outcome alone.

    w_j = p_j (immediate), sum over i >= j of p_i (to-go), sum over i >= j of gamma^(i-j) p_i (discounted), or the sum
    over all i (trace: the authors' end-of-trace scalar, which only a mixed group can use). The bonus is added after the
    normalisation. `center="depth"` subtracts the mean bonus of the group at the same episode. An unmeasured p_j is 0;
    with `unmeasured="spread"` the progress between two measured boundaries is shared equally by the episodes between
    them, so that the sum still telescopes to J_K - J_0.

    `alpha == 0` returns the outcome weights without touching J.
    """
    base = outcome(trials, scale=scale, eps=eps, gather=gather)
    if alpha == 0:
        return base
    return base + alpha * progress_bonus(trials, mode=mode, gamma=gamma, center=center, unmeasured=unmeasured)


def progress_bonus(
    trials: Trials, mode: str = "immediate", gamma: float = 0.9, center: str = "none", unmeasured: str = "zero"
) -> Tensor:
    """(B, T) the w_e(t) of `progress`, before alpha; zero outside `mask` and outside any episode."""
    gained = episode_progress(trials, unmeasured)  # (B, K)
    if mode in ("to-go", "discounted"):
        factor = 1.0 if mode == "to-go" else gamma
        weight, running = torch.zeros_like(gained), torch.zeros_like(gained[:, 0])
        for j in reversed(range(gained.shape[1])):
            running = gained[:, j] + factor * running
            weight[:, j] = running
    elif mode == "trace":
        weight = gained.sum(1, keepdim=True).expand_as(gained)
    elif mode == "immediate":
        weight = gained
    else:
        raise ConfigError(
            f"progress mode {mode!r} is unknown; {nearest(mode, ('immediate', 'to-go', 'discounted', 'trace'))}"
        )
    if center == "depth":
        ranks = rank(trials.group)
        present = torch.arange(weight.shape[1], device=weight.device) < trials.episodes[:, None]
        present &= trials.scored[:, None]
        mean = group_mean(torch.where(present, weight, torch.full_like(weight, torch.nan)), ranks)[ranks]
        weight = weight - torch.nan_to_num(mean, nan=0.0)
    elif center != "none":
        raise ConfigError(f"center={center!r} is unknown; {nearest(center, ('none', 'depth'))}")
    return spread(weight, trials)


def episode_progress(trials: Trials, unmeasured: str = "zero") -> Tensor:
    """(B, K) p_1..p_K; see `progress` for what happens between unmeasured boundaries."""
    if trials.stop_values is None:
        raise ValueError("progress needs stop values: probe the boundaries, or choose the outcome credit")
    values = trials.stop_values.float()
    if unmeasured == "spread":
        values = interpolate(values)
    elif unmeasured != "zero":
        raise ConfigError(f"unmeasured={unmeasured!r} is unknown; {nearest(unmeasured, ('zero', 'spread'))}")
    return torch.nan_to_num(values[:, 1:] - values[:, :-1], nan=0.0)
