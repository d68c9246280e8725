"""Stages of adaptation in the record: episodes of one stage as rows, and all stages as the episodes of a trial.

M tasks, n trials of each, B = M n rows in the order of the tasks; `group` numbers the tasks from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from classic_metarl.inner.gradient_steps import Tree
from mrt.credit.grouping import group_mean, group_std
from mrt.trials import PROVERS, Trials

WEIGHTS = "credit"  # where the credit of a step stands among `privileged`, (B, T)
NUMBER = "task"  # and the number of a row's task in the run, (B,)
FIELDS = ("actions", "rewards", "mask", "logprobs")  # what a surrogate reads, inputs and credit aside


def join(stages: Sequence[Trials]) -> Trials:
    """The rows of k+1 stages, an episode each, as trials of k+1 episodes: row b goes on in row b of the next stage.

    `stop_values` (B, k+2): J_j is the mean return of the task's episodes of stage j, for j = 0..k, and its standard
    error; nothing is measured after the last. Steps stand side by side, so that stage j begins in one column for all.
    """
    last = stages[-1]

    def side_by_side(get: Callable[[Trials], Tensor]) -> Tensor:
        return torch.cat([get(one) for one in stages], 1)

    means = torch.stack([group_mean(one.returns, one.group)[one.group] for one in stages], 1)
    deviations = torch.stack([group_std(one.returns, one.group)[one.group] for one in stages], 1)
    size = last.group.bincount()[last.group][:, None]
    unknown = torch.full_like(means[:, :1], torch.nan)
    new: dict[str, Any] = {name: side_by_side(attrgetter(name)) for name in (*FIELDS, "stop")}
    return replace(
        last,
        **new,
        values=None,
        episode=torch.cat([torch.where(one.episode >= 0, j, -1) for j, one in enumerate(stages)], 1),
        inputs={name: torch.cat([one.inputs[name] for one in stages], 1) for name in last.inputs},
        privileged={WEIGHTS: side_by_side(lambda one: one.privileged[WEIGHTS])},
        stop_values=torch.cat([means, unknown], 1),
        stop_value_se=torch.cat([deviations / size.sqrt(), unknown], 1),
        prover=torch.full_like(last.prover, PROVERS["forced"]),
        cost={name: torch.stack([one.cost[name] for one in stages]).sum(0) for name in last.cost},
    )


def stage(trials: Trials, number: int) -> Trials:
    """The episodes of one stage of joined trials, a row each."""
    columns = torch.nonzero((trials.episode == number).any(0))[:, 0]
    begin, end = int(columns[0]), int(columns[-1]) + 1
    steps = trials.mask.shape[1]

    def cut(value: Tensor) -> Tensor:
        return value[:, begin:end] if value.ndim > 1 and value.shape[1] == steps else value

    new: dict[str, Any] = {name: cut(getattr(trials, name)) for name in FIELDS}
    return replace(
        trials,
        **new,
        episode=torch.where(cut(trials.episode) == number, 0, -1),
        inputs={name: cut(value) for name, value in trials.inputs.items()},
        privileged={name: cut(value) for name, value in trials.privileged.items()},
        stop=None if trials.stop is None else trials.stop[:, number : number + 1],
        stop_values=None,
        stop_value_se=None,
    )


def stages_of(trials: Trials) -> list[Trials]:
    """Every stage of joined trials."""
    return [stage(trials, number) for number in range(int(trials.episode.max()) + 1)]


def task_number(trials: Trials) -> int:
    """M."""
    return int(trials.group[-1]) + 1


def numbers_of(trials: Trials) -> Tensor:
    """(M,) the tasks' numbers in the run."""
    return trials.privileged[NUMBER].unflatten(0, (task_number(trials), -1))[:, 0]


def task_means(values: Tensor, trials: Trials) -> Tensor:
    """(M,) sums of `values` (B,) over each task's rows, divided by the steps that acted in them."""
    tasks = task_number(trials)
    steps = trials.mask.sum(1).unflatten(0, (tasks, -1)).sum(1)
    return values.unflatten(0, (tasks, -1)).sum(1) / steps.clamp(min=1)


def as_data(trials: Trials) -> Tree:
    """The episodes of one stage as a tree of tensors (M, n, T, ...), the form of data that `GradientSteps` takes."""
    found = {name: getattr(trials, name) for name in FIELDS} | {WEIGHTS: trials.privileged[WEIGHTS]}
    found |= {f"inputs/{name}": value for name, value in trials.inputs.items()}
    return {name: value.unflatten(0, (task_number(trials), -1)) for name, value in found.items()}


def as_trials(data: Tree) -> Trials:
    """Back from `as_data`, as far as surrogates look."""
    tasks, each = data["mask"].shape[:2]
    flat = {name: value.flatten(0, 1) for name, value in data.items()}
    new: dict[str, Any] = {name: flat[name] for name in FIELDS}
    return Trials(
        **new,
        episode=torch.zeros_like(flat["mask"], dtype=torch.long),
        group=torch.arange(tasks, device=flat["mask"].device).repeat_interleave(each),
        inputs={name.removeprefix("inputs/"): value for name, value in flat.items() if name.startswith("inputs/")},
        privileged={WEIGHTS: flat[WEIGHTS]},
    )
