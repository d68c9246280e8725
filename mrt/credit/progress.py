"""Progress credit, the MRT objective: every episode is paid for what it changes in the value of stopping."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mrt.credit.denoise import reliability, smooth
from mrt.credit.grouping import depth_means, discounted_to_go, group_sum, interpolate, last_measured, rank, spread
from mrt.credit.outcome import Gather, Scale, outcome
from mrt.credit.returns import gae
from mrt.errors import ConfigError, nearest
from mrt.trials import Trials

MODES = ("immediate", "to-go", "discounted", "trace", "watermark", "none")
CENTERS = ("none", "depth", "batch")
BASES = ("outcome", "gae")
UNMEASURED = ("zero", "spread")
DENOISE = ("none", "reliability", "smooth")
BONUS_SCALES = ("none", "group")


def progress(
    trials: Trials,
    alpha: float = 1.0,
    mode: str = "immediate",
    gamma: float = 0.9,
    *,
    center: str = "none",
    unmeasured: str = "zero",
    denoise: str = "none",
    bonus_scale: str = "none",
    late: float = 0.0,
    right: float = 0.9,
    scale: Scale = "group",
    base: str = "outcome",
    base_gamma: float = 0.99,
    base_lam: float = 0.95,
    gather: Gather | None = None,
) -> Tensor:
    """A[b,t] = (R_b - mean_g R) / (s_g + eps) + alpha w_e(t): the MRT objective (Qu et al. 2025, 2503.07572, definition
    6.1 and the objective of section 6), e(t) the episode of step t. Steps outside any episode (the answer) get the
    outcome alone.

    w_j = p_j (immediate), sum over i >= j of p_i (to-go), sum over i >= j of gamma^(i-j) p_i (discounted), or the sum
    over all i (trace: the authors' end-of-trace scalar, which only a mixed group can use), or max(0, J_j - max over i <
    j of J_i) (watermark: only what is better than all before, MIG, 2602.01034), or 0 (none: nothing but `late`). The
    bonus is added after the normalisation. `center="depth"` subtracts the mean bonus of the group at the same episode,
    "batch" that of all rows of this process, for trials that are alone in their group. An unmeasured p_j is 0;
    with `unmeasured="spread"` the progress between two measured boundaries is shared equally by the episodes between
    them, so that the sum still telescopes to J_K - J_0.

    `denoise` uses `stop_value_se`: `reliability` multiplies progress by the share of its variance that is signal,
    `smooth` replaces J by its mean given the whole trace (`mrt.credit.denoise`). `bonus_scale="group"` divides by
    the root mean square of progress within the group, for a J whose unit differs between problems. `late` is taken off
    every step of the episodes behind the first boundary with J of at least `right` (2601.02972: only what follows the
    first right answer costs).

    `base="gae"` puts the generalised advantage estimate across the trial (`base_gamma`, `base_lam`) in the place of the
    outcome, as control does with one trial a task: A[b,t] = GAE_t + alpha w_e(t), both in units of the return.

    `alpha == 0` returns the weights of the base without touching J.
    """
    _check(base, BASES, "base")
    first = gae(trials, base_gamma, base_lam) if base == "gae" else outcome(trials, scale=scale, gather=gather)
    if alpha == 0:
        return first
    how: dict[str, Any] = {"unmeasured": unmeasured, "denoise": denoise, "bonus_scale": bonus_scale, "gather": gather}
    bonus = progress_bonus(trials, mode=mode, gamma=gamma, center=center, late=late, right=right, **how)
    return first + alpha * bonus


def progress_bonus(
    trials: Trials,
    mode: str = "immediate",
    gamma: float = 0.9,
    *,
    center: str = "none",
    unmeasured: str = "zero",
    denoise: str = "none",
    bonus_scale: str = "none",
    late: float = 0.0,
    right: float = 0.9,
    gather: Gather | None = None,
) -> Tensor:
    """(B, T) the w_e(t) of `progress`, before alpha; zero outside `mask` and outside any episode."""
    for value, valid, name in (
        (mode, MODES, "progress mode"),
        (center, CENTERS, "center"),
        (unmeasured, UNMEASURED, "unmeasured"),
        (denoise, DENOISE, "denoise"),
        (bonus_scale, BONUS_SCALES, "bonus_scale"),
    ):
        _check(value, valid, name)
    values, share = _denoised(trials, denoise, gather)
    gained = share * _gained(values, unmeasured)  # (B, K)
    if mode == "immediate":
        weight = gained
    elif mode == "trace":
        weight = gained.sum(1, keepdim=True).expand_as(gained)
    elif mode == "watermark":
        weight = share * _above(values)
    elif mode == "none":
        weight = torch.zeros_like(gained)
    else:
        weight = discounted_to_go(gained, gamma if mode == "discounted" else 1.0)
    if bonus_scale == "group":
        weight = weight / _deviation(gained, values, trials)
    if late:
        weight = weight - late * _behind(values, right)
    if center != "none":
        everyone = torch.zeros_like(trials.group) if center == "batch" else trials.group
        weight = weight - depth_means(weight, trials, everyone)
    return spread(weight, trials)


def _gained(values: Tensor, unmeasured: str) -> Tensor:
    values = interpolate(values) if unmeasured == "spread" else values
    return torch.nan_to_num(values[:, 1:] - values[:, :-1], nan=0.0)


def _denoised(trials: Trials, denoise: str, gather: Gather | None = None) -> tuple[Tensor, float]:
    """(B, K+1) stop values, and what progress is multiplied by."""
    if trials.stop_values is None:
        raise ValueError("progress needs stop values: probe the boundaries, or choose the outcome credit")
    values = trials.stop_values.float()
    if denoise == "none":
        return values, 1.0
    if trials.stop_value_se is None:
        raise ValueError(f"denoise='{denoise}' needs the standard errors of the stop values")
    if denoise == "smooth":
        return smooth(values, trials.stop_value_se.float(), gather), 1.0
    return values, reliability(values, trials.stop_value_se.float(), gather)


def _above(values: Tensor) -> Tensor:
    """(B, K) max(0, J_j - max over i < j of J_i) over measured values, 0 where J_j was not measured."""
    known = torch.nan_to_num(values, nan=-torch.inf)
    best = known.cummax(1).values[:, :-1]
    return torch.nan_to_num((values[:, 1:] - best).clamp(min=0), nan=0.0, posinf=0.0)


def _behind(values: Tensor, right: float) -> Tensor:
    """(B, K) 1 for an episode that begins where an answer would already have been right."""
    return ((values >= right).cumsum(1) > 0)[:, :-1].float()


def _deviation(gained: Tensor, values: Tensor, trials: Trials) -> Tensor:
    """(B, 1) root mean square of the progress measured in each row's group; 1 where nothing moved."""
    ranks = rank(trials.group)
    known = torch.arange(gained.shape[1], device=gained.device) < last_measured(values)[:, None]
    per_row = torch.where(known, gained**2, torch.zeros_like(gained)).sum(1)
    square = group_sum(per_row, ranks) / group_sum(known.sum(1).float(), ranks).clamp(min=1)
    return torch.where(square > 0, square.sqrt(), torch.ones_like(square))[ranks][:, None]


def _check(value: str, valid: tuple[str, ...], name: str) -> None:
    if value not in valid:
        raise ConfigError(f"{name} {value!r} is unknown; {nearest(value, valid)}")
