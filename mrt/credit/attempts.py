"""Return across attempts: an attempt is paid for what it earns itself, and less for what later attempts earn."""

from __future__ import annotations

import torch
from torch import Tensor

from mrt.credit.grouping import depth_means, discounted_to_go, group_sum, rank, spread
from mrt.credit.outcome import Gather
from mrt.errors import ConfigError, nearest
from mrt.trials import Trials

SCALES = ("group", "batch", "none")


def attempt_returns(
    trials: Trials,
    gamma: float = 0.6,
    scale: str = "group",
    eps: float = 1e-4,
    *,
    correction: float = 0.0,
    gather: Gather | None = None,
) -> Tensor:
    """A[b,t] = (G_bj - mean_g G_j) / (s + eps) at all steps t of attempt j, G_bj = sum over i >= j of gamma^(i-j) R_bi.

    R_bi is the undiscounted return of attempt (episode) i, with what is paid between it and the next. The return
    across attempts with a discount across them, not within, is LaMer's (2512.16848; gamma 0.6, 3 attempts, groups
    of 8), and at gamma 1 that of RL2 (1611.02779). The mean is over the rows of the group that have an attempt j:
    what rows could know of the task so far is the same kind of knowledge there. `scale`: "group" divides by the
    root mean square of these differences in the group, "batch" in the whole batch (`gather` collects it from the
    other processes), "none" not at all. Unscorable rows get 0 and take no part; steps outside any attempt get 0.

    `correction` adds correction (R_bj - R_b(j-1)) to what attempt j earns, from the second on: with gamma 0 the reward
    of the second stage of SCoRe (Kumar et al. 2024, 2409.12917), which pays for setting an answer right and takes for
    spoiling one.

    Raises:
        ConfigError: for a gamma outside [0, 1], and an unknown scale.
    """
    if not 0 <= gamma <= 1:
        raise ConfigError(f"gamma={gamma} of credit 'attempt_returns' must be between 0 and 1")
    if scale not in SCALES:
        raise ConfigError(f"scale={scale!r} is no scaling of attempt returns; {nearest(str(scale), SCALES)}")
    width = max(1, int(trials.episodes.max()) if len(trials) else 0)
    earned = trials.rewards.new_zeros(len(trials), width)
    earned.scatter_add_(1, trials.episode.cummax(1).values.clamp(min=0), trials.rewards)
    if correction:
        change = earned.diff(dim=1, prepend=earned[:, :1])  # nothing for the first
        earned = earned + correction * change * (torch.arange(width, device=earned.device) < trials.episodes[:, None])
    to_go = discounted_to_go(earned, gamma)
    present = (torch.arange(width, device=earned.device) < trials.episodes[:, None]) & trials.scored[:, None]
    centred = torch.where(present, to_go - depth_means(to_go, trials, trials.group), 0.0)
    if scale == "group":
        ranks = rank(trials.group)
        square, count = (group_sum(x.sum(1), ranks)[ranks] for x in (centred.square(), present.float()))
        centred = centred / ((square / count.clamp(min=1)).sqrt() + eps)[:, None]
    elif scale == "batch":
        sums = torch.stack([centred.square().sum(), present.float().sum()])[None]
        square, count = (gather(sums) if gather else sums).sum(0)
        centred = centred / ((square / count.clamp(min=1)).sqrt() + eps)
    return spread(centred, trials)
