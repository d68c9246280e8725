"""The credit of one stage's episodes, over values fitted to that task's own episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from classic_metarl.inner.linear_baseline import linear_values
from mrt.credit.grouping import group_sum
from mrt.credit.returns import reward_to_go
from mrt.training.collection import Batch
from mrt.trials import Trials


def credit_of(trials: Trials, credit: Callable[[Trials], Tensor], gamma: float, normalise: bool) -> Tensor:
    """(B, T) credit of one stage's episodes over fitted values, each task's to mean 0 and deviation 1 if asked."""
    values = linear_values(trials.inputs["observation"], reward_to_go(trials, gamma=gamma), trials)
    weights = credit(replace(trials, values=values))
    if not normalise:
        return weights
    count = group_sum(trials.mask.sum(1).float(), trials.group)
    mean = (group_sum((weights * trials.mask).sum(1), trials.group) / count)[trials.group][:, None]
    centred = torch.where(trials.mask, weights - mean, 0.0)
    deviation = (group_sum(centred.square().sum(1), trials.group) / count).sqrt()
    return centred / (deviation[trials.group][:, None] + 1e-8)


def with_credit(trials: Trials, credit: Callable[[Trials], Tensor], gamma: float, normalise: bool) -> Batch:
    """One stage's episodes with their credit among `privileged`; see `credit_of`."""
    return Batch(trials, credit_of(trials, credit, gamma, normalise))
