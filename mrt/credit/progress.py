"""Progress credit, the MRT objective: every episode is paid for what it changes in the value of stopping."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mrt.credit.grouping import depth_means, discounted_to_go, interpolate, spread
from mrt.credit.outcome import Gather, outcome
from mrt.errors import ConfigError, nearest
from mrt.trials import Trials

MODES = ("immediate", "to-go", "discounted", "trace")
CENTERS = ("none", "depth")
UNMEASURED = ("zero", "spread")


def progress(
    trials: Trials,
    alpha: float = 1.0,
    mode: str = "immediate",
    gamma: float = 0.9,
    *,
    center: str = "none",
    unmeasured: str = "zero",
    scale: Literal["group", "batch", "none"] = "group",
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
    base = outcome(trials, scale=scale, gather=gather)
    if alpha == 0:
        return base
    return base + alpha * progress_bonus(trials, mode=mode, gamma=gamma, center=center, unmeasured=unmeasured)


def progress_bonus(
    trials: Trials, mode: str = "immediate", gamma: float = 0.9, *, center: str = "none", unmeasured: str = "zero"
) -> Tensor:
    """(B, T) the w_e(t) of `progress`, before alpha; zero outside `mask` and outside any episode."""
    _check(mode, MODES, "progress mode")
    _check(center, CENTERS, "center")
    gained = episode_progress(trials, unmeasured)  # (B, K)
    if mode == "immediate":
        weight = gained
    elif mode == "trace":
        weight = gained.sum(1, keepdim=True).expand_as(gained)
    else:
        weight = discounted_to_go(gained, gamma if mode == "discounted" else 1.0)
    return spread(weight - depth_means(weight, trials) if center == "depth" else weight, trials)


def episode_progress(trials: Trials, unmeasured: str = "zero") -> Tensor:
    """(B, K) p_1..p_K; see `progress` for what happens between unmeasured boundaries."""
    if trials.stop_values is None:
        raise ValueError("progress needs stop values: probe the boundaries, or choose the outcome credit")
    _check(unmeasured, UNMEASURED, "unmeasured")
    values = trials.stop_values.float()
    values = interpolate(values) if unmeasured == "spread" else values
    return torch.nan_to_num(values[:, 1:] - values[:, :-1], nan=0.0)


def _check(value: str, valid: tuple[str, ...], name: str) -> None:
    if value not in valid:
        raise ConfigError(f"{name} {value!r} is unknown; {nearest(value, valid)}")
