"""What off-policy learners aim at on whole trials: which rewards count, and the targets of temporal differences."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from mrt.trials import Trials


def without_free(trials: Trials, free: int) -> Trials:
    """The trials as the objective sees them: the first `free` episodes explore, their rewards count for nothing.

    E-RL2 (Stadie et al. 2018, 1803.01118) and every system with free episodes. What the policy sees stays as it was.
    """
    if not free:
        return trials
    return dataclasses.replace(trials, rewards=torch.where(trials.episode < free, 0.0, trials.rewards))


def next_act(mask: Tensor, values: Tensor) -> Tensor:
    """(B, T, ...) of `values` at the next acting step, over closing rows and the ends of episodes; 0 after the last.

    The next episode of a trial follows the one before, whatever ended it; nothing follows the end of the trial.
    """
    steps = mask.shape[1]
    place = torch.where(mask, torch.arange(steps, device=mask.device), steps)
    first = place.flip(1).cummin(1).values.flip(1)  # the first acting step from here on
    after = torch.cat([first[:, 1:], torch.full_like(first[:, :1], steps)], 1)
    padded = torch.cat([values, torch.zeros_like(values[:, :1])], 1)
    rows = torch.arange(len(mask), device=mask.device)[:, None]
    return padded[rows, after]


def one_step(trials: Trials, values: Tensor, gamma: float | Tensor) -> Tensor:
    """y_t = r_t + gamma V_(next act), (B, T) or (B, T, G) with V in `values` of that shape; 0 where nothing was acted.

    Args:
        values: what target networks say of every step, from the whole trial before it.
        gamma: a discount, or G of them.
    """
    extra = values.ndim - trials.rewards.ndim
    rewards, mask = (x[(..., *[None] * extra)] for x in (trials.rewards, trials.mask))
    return torch.where(mask, rewards + gamma * next_act(trials.mask, values), 0.0)
