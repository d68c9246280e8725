"""Statistics within groups of rows, and the way from one number an episode to one number a step. NaN marks what does
not count.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrt.errors import ConfigError
from mrt.trials import Stop, Trials


def rank(group: Tensor) -> Tensor:
    """(B,) the groups numbered from 0, whatever their ids are."""
    return torch.unique(group, return_inverse=True)[1]


def group_sum(value: Tensor, ranks: Tensor) -> Tensor:
    """(G, ...) sum of `value` (B, ...) within each group; NaN counts as nothing."""
    total = value.new_zeros((int(ranks.max()) + 1 if len(ranks) else 0, *value.shape[1:]))
    return total.index_add(0, ranks, torch.nan_to_num(value, nan=0.0))


def group_mean(value: Tensor, ranks: Tensor) -> Tensor:
    """(G, ...) mean over the rows that are not NaN; NaN where none is."""
    count = group_sum((~value.isnan()).to(value.dtype), ranks)
    return group_sum(value, ranks) / count.where(count > 0, torch.full_like(count, torch.nan))


def group_std(value: Tensor, ranks: Tensor) -> Tensor:
    """(G,) unbiased standard deviation over the rows that are not NaN; 0 for fewer than two."""
    count = group_sum((~value.isnan()).to(value.dtype), ranks)
    centred = value - group_mean(value, ranks)[ranks]
    return (group_sum(centred**2, ranks) / (count - 1).clamp(min=1)).sqrt()


def group_max(value: Tensor, ranks: Tensor) -> Tensor:
    """(G,) largest value (B,) of each group."""
    top = torch.full((int(ranks.max()) + 1 if len(ranks) else 0,), torch.iinfo(torch.long).min, device=value.device)
    return top.scatter_reduce(0, ranks, value.long(), "amax")


def weighable(trials: Trials) -> Tensor:
    """(B, T) bool: steps that may carry a weight, chosen by the policy and in a scorable row."""
    return trials.mask & trials.scored[:, None]


def spread(weight: Tensor, trials: Trials) -> Tensor:
    """(B, T) the weight (B, K) of each step's episode; 0 outside any episode and where nothing was chosen."""
    if weight.shape[1] == 0:
        return torch.zeros_like(trials.rewards)
    inside = trials.episode >= 0
    per_step = weight.gather(1, trials.episode.clamp(min=0))
    return torch.where(inside & weighable(trials), per_step, torch.zeros_like(per_step))


def stop_per_step(trials: Trials) -> Tensor:
    """(B, T) int64 why the episode of each step ended; TERMINATED where that was not recorded."""
    if trials.stop is None:
        return torch.full_like(trials.episode, int(Stop.TERMINATED))
    return trials.stop.long().gather(1, trials.episode.clamp(min=0))


def last_measured(values: Tensor) -> Tensor:
    """(B,) column of the last entry of (B, K+1) that is not NaN; 0 where none is."""
    columns = torch.arange(values.shape[1], device=values.device)
    return torch.where(values.isnan(), torch.zeros_like(columns), columns).amax(1)


def forward_fill(values: Tensor) -> Tensor:
    """(B, K+1) with every NaN replaced by the last measured value before it (NaN before the first)."""
    columns = torch.arange(values.shape[1], device=values.device)
    source = torch.where(values.isnan(), torch.zeros_like(columns), columns).cummax(1).values
    return values.gather(1, source)


def interpolate(values: Tensor) -> Tensor:
    """(B, K+1) with NaNs between two measured values filled linearly in the episode index; outside them they stay."""
    columns = torch.arange(values.shape[1], device=values.device).expand_as(values)
    before = torch.where(values.isnan(), torch.full_like(columns, -1), columns).cummax(1).values
    after = torch.where(values.isnan(), torch.full_like(columns, values.shape[1]), columns)
    after = after.flip(1).cummin(1).values.flip(1)
    inside = values.isnan() & (before >= 0) & (after < values.shape[1])
    low, high = before.clamp(min=0), after.clamp(max=values.shape[1] - 1)
    share = (columns - low) / (high - low).clamp(min=1)
    line = values.gather(1, low) * (1 - share) + values.gather(1, high) * share
    return torch.where(inside, line, values)


def discounted_to_go(gained: Tensor, factor: float) -> Tensor:
    """(B, K) sum over i >= j of factor^(i-j) gained_i."""
    total, running = torch.zeros_like(gained), torch.zeros_like(gained[:, 0])
    for j in reversed(range(gained.shape[1])):
        running = gained[:, j] + factor * running
        total[:, j] = running
    return total


def depth_means(weight: Tensor, trials: Trials, group: Tensor) -> Tensor:
    """(B, K) mean of `weight` over the scorable rows of the `group` (B,) that have this episode; 0 where none has."""
    ranks = rank(group)
    present = torch.arange(weight.shape[1], device=weight.device) < trials.episodes[:, None]
    present &= trials.scored[:, None]
    mean = group_mean(torch.where(present, weight, torch.full_like(weight, torch.nan)), ranks)[ranks]
    return torch.nan_to_num(mean, nan=0.0)


def check_compares(ranks: Tensor, name: str) -> None:
    """A credit that compares the rows of a group needs a group of two somewhere.

    Raises:
        ConfigError: when every group has one row: all weights would be zero and nothing would be learned.
    """
    if len(ranks) and int(torch.bincount(ranks).max()) < 2:
        raise ConfigError(
            f"credit '{name}' compares the rows of a group, and every group has one row: all weights would be zero. "
            "Cure: several trials a task (trials_per_task, num_generations), or a credit of steps (gae, reward_to_go)"
        )


def check_group_size(batch: int, size: int, processes: int = 1) -> None:
    """Groups of `size` rows must not be split over processes or updates.

    Raises:
        ConfigError: naming the valid group sizes for `batch` rows a process.
    """
    if size < 1 or batch % size:
        valid = [n for n in range(2, batch + 1) if batch % n == 0]
        raise ConfigError(
            f"a group of {size} rows would be split: each of {processes} process(es) holds {batch} rows. "
            f"Valid group sizes are {valid}, or change the batch to a multiple of {size}"
        )
