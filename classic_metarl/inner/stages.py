"""Stages of adaptation in the record: episodes of one stage as rows, and all stages as the episodes of a trial.

A stage, and several joined, is a `Batch`: its trials, and the credit of every step as weights (B, T).

M tasks, n trials of each, B = M n rows in the order of the tasks; `group` numbers the tasks from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from classic_metarl.inner.gradient_steps import Tree, fold, unfold
from mrt.credit.grouping import group_mean, group_std
from mrt.training.collection import Batch
from mrt.trials import PROVERS, Trials

FIELDS = ("actions", "rewards", "mask", "logprobs")  # what a surrogate reads, inputs aside


def join(stages: Sequence[Batch]) -> Batch:
    """The rows of k+1 stages, an episode each, as trials of k+1 episodes: row b goes on in row b of the next stage.

    `stop_values` (B, k+2): J_j is the mean return of the task's episodes of stage j, for j = 0..k, and its standard
    error; nothing is measured after the last. Stage j begins in the same column for all rows.
    """
    trials = [one.trials for one in stages]
    last = trials[-1]

    def side_by_side(get: Callable[[Trials], Tensor]) -> Tensor:
        return torch.cat([get(one) for one in trials], 1)

    means = torch.stack([group_mean(one.returns, one.group)[one.group] for one in trials], 1)
    deviations = torch.stack([group_std(one.returns, one.group)[one.group] for one in trials], 1)
    size = last.group.bincount()[last.group][:, None]
    unknown = torch.full_like(means[:, :1], torch.nan)
    new: dict[str, Any] = {name: side_by_side(attrgetter(name)) for name in (*FIELDS, "stop")}
    joined = replace(
        last,
        **new,
        values=None,
        episode=torch.cat([torch.where(one.episode >= 0, j, -1) for j, one in enumerate(trials)], 1),
        inputs={name: torch.cat([one.inputs[name] for one in trials], 1) for name in last.inputs},
        stop_values=torch.cat([means, unknown], 1),
        stop_value_se=torch.cat([deviations / size.sqrt(), unknown], 1),
        prover=torch.full_like(last.prover, PROVERS["forced"]),
        cost={name: torch.stack([one.cost[name] for one in trials]).sum(0) for name in last.cost},
    )
    return Batch(joined, torch.cat([one.weights for one in stages], 1))


def stage(batch: Batch, number: int) -> Batch:
    """The episodes of one stage of joined trials, a row each, with their credit."""
    trials = batch.trials
    columns = torch.nonzero((trials.episode == number).any(0))[:, 0]
    begin, end = int(columns[0]), int(columns[-1]) + 1
    new: dict[str, Any] = {name: getattr(trials, name)[:, begin:end] for name in FIELDS}
    one = replace(
        trials,
        **new,
        episode=torch.where(trials.episode[:, begin:end] == number, 0, -1),
        inputs={name: value[:, begin:end] for name, value in trials.inputs.items()},
        stop=None if trials.stop is None else trials.stop[:, number : number + 1],
        stop_values=None,
        stop_value_se=None,
    )
    return Batch(one, batch.weights[:, begin:end])


def task_number(trials: Trials) -> int:
    """M."""
    return int(trials.group[-1]) + 1


def numbers_of(trials: Trials) -> Tensor:
    """(M,) the tasks' numbers in the run."""
    return trials.task.unflatten(0, (task_number(trials), -1))[:, 0]


def task_means(values: Tensor, trials: Trials) -> Tensor:
    """(M,) sums of `values` (B,) over each task's rows, divided by the steps that acted in them."""
    tasks = task_number(trials)
    steps = trials.mask.sum(1).unflatten(0, (tasks, -1)).sum(1)
    return values.unflatten(0, (tasks, -1)).sum(1) / steps.clamp(min=1)


def as_data(batch: Batch) -> Tree:
    """The episodes of one stage as a tree of tensors (M, n, T, ...), the form of data that `GradientSteps` takes."""
    trials = batch.trials
    found = {name: getattr(trials, name) for name in FIELDS} | {"weights": batch.weights}
    found |= {f"inputs/{name}": value for name, value in trials.inputs.items()}
    return unfold(found, task_number(trials))


def as_batch(data: Tree) -> Batch:
    """Back from `as_data`, as far as surrogates look."""
    tasks, each = data["mask"].shape[:2]
    flat = fold(data)
    new: dict[str, Any] = {name: flat[name] for name in FIELDS}
    trials = Trials(
        **new,
        episode=torch.zeros_like(flat["mask"], dtype=torch.long),
        group=torch.arange(tasks, device=flat["mask"].device).repeat_interleave(each),
        inputs={name.removeprefix("inputs/"): value for name, value in flat.items() if name.startswith("inputs/")},
    )
    return Batch(trials, flat["weights"])
