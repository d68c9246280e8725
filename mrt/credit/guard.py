"""The cancellation guard: a progress bonus that is an affine function of the outcome teaches nothing new.

Progress telescopes, so a trace-level sum of it is the outcome minus a constant; in a group that shares one prefix a
bonus alpha (f_i - c) is affine in the outcome, and centring and scaling erase it (the authors' first trainer did that).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mrt.credit.grouping import rank
from mrt.credit.outcome import Gather
from mrt.errors import ConfigError
from mrt.trials import Trials

NOTHING = 1e-6  # a bonus below this is none
CURES = (
    "use a mixed group (rollout='mixed': half of the group answers at once from the shared prefix), "
    "or a per-episode credit (mode='immediate', 'to-go' or 'discounted')"
)


def effective_std(trials: Trials, outcome: Tensor, bonus: Tensor) -> Tensor:
    """(G,) standard deviation of what is left of the bonus after regressing it, within each group, on the outcome
    weights.

    Args:
        outcome, bonus: (B, T) weights. Steps outside any episode carry no bonus by design and are left out.

    NaN for a group that cannot tell: its outcomes do not vary, it has fewer than three bonus-carrying steps, or no
    bonus at all (nothing was gained anywhere, as at the start of a hard run).
    """
    ranks = rank(trials.group)
    carries = trials.mask & (trials.episode >= 0) & trials.scored[:, None]
    left = []
    for g in range(int(ranks.max()) + 1 if len(ranks) else 0):
        here = carries & (ranks == g)[:, None]
        x, y = outcome[here].double(), bonus[here].double()
        x = x - x.mean() if len(x) else x
        if len(x) < 3 or float(x.abs().max()) < 1e-9 or float(y.abs().max()) < NOTHING:
            left.append(torch.tensor(torch.nan, dtype=torch.float64))
            continue
        y = y - y.mean()
        residual = y - x * (x @ y) / (x @ x)
        left.append(residual.square().mean().sqrt().cpu())
    return torch.stack(left) if left else torch.zeros(0, dtype=torch.float64)


def mean_effective_std(trials: Trials, outcome: Tensor, bonus: Tensor, gather: Gather | None = None) -> float:
    """Mean of `effective_std` over the groups that can tell, those of other processes too where there is `gather`; NaN
    when none can.
    """
    left = _telling(trials, outcome, bonus, gather)
    return float(left.mean()) if len(left) else math.nan


def check_bonus(
    trials: Trials, outcome: Tensor, bonus: Tensor, floor: float = NOTHING, gather: Gather | None = None
) -> float:
    """As `mean_effective_std`.

    Raises:
        ConfigError: when it is below `floor` in every group whose outcomes vary; the message names the cures.
    """
    left = _telling(trials, outcome, bonus, gather)
    if len(left) and bool((left < floor).all()):
        raise ConfigError(
            "the progress bonus cancels: within every group whose outcomes vary it is affine in the outcome "
            f"(what remains has standard deviation {float(left.max()):.1e}), so centring and scaling erase it. "
            f"Cures: {CURES}"
        )
    return float(left.mean()) if len(left) else math.nan


def _telling(trials: Trials, outcome: Tensor, bonus: Tensor, gather: Gather | None) -> Tensor:
    """The effective standard deviations of the groups of all processes that can tell."""
    stds = effective_std(trials, outcome, bonus)
    if gather is not None:
        stds = gather(stds.to(bonus.device)).cpu()
    return stds[~stds.isnan()]


def check_construction(mode: str, mixed: bool) -> None:
    """The known case, refused before anything is sampled: one scalar a trace in groups that share their start.

    Raises:
        ConfigError: for `mode="trace"` without a mixed group.
    """
    if mode == "trace" and not mixed:
        raise ConfigError(
            "mode='trace' gives every step of a trace the same progress, J_K - J_0, and J_0 is one number for the "
            "whole "
            f"group: the group's mean removes it. {CURES[0].upper()}{CURES[1:]}"
        )
