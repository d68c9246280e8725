"""Probing a batch of trials: which boundaries, and the stop values that come of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mrt.reasoning.engines.base import Engine
from mrt.reasoning.probes.base import Judge, Probe, Trace
from mrt.reasoning.probes.schedule import Schedule
from mrt.reasoning.traces.prompts import ThinkFormat
from mrt.reasoning.traces.trial import Trial


@dataclass(frozen=True)
class ProbePlan:
    """How J is measured: by which probe, behind which forced close, judged by whom, at which boundaries."""

    probe: Probe
    fmt: ThinkFormat
    judge: Judge
    schedule: Schedule = Schedule()  # noqa: RUF009  (frozen)


@dataclass(frozen=True)
class ProbeRequest:
    """The trials to be measured, with the ids of their prompts and the rows of the dataset that they answer; `seeds`
    are those of coupled answers, by prompt, which `probe_trials` draws.
    """

    prompts: Sequence[Sequence[int]]
    trials: Sequence[Trial]
    rows: Sequence[Mapping[str, Any]]
    seeds: Mapping[tuple[int, ...], int] = field(default_factory=dict)


Place = tuple[int, ...]
Measured = dict[Place, tuple[float, float]]


def probe_trials(engine: Engine, plan: ProbePlan, request: ProbeRequest, generator: torch.Generator) -> None:
    """Measures J at the scheduled boundaries and writes it into the trials. Forced rows are not probed: they are
    answers themselves. A schedule that looks where J moved asks again until it is content.
    """
    trials = request.trials
    for trial in trials:
        trial.stop_values = [math.nan] * (len(trial.ends) + 1)
        trial.errors = [math.nan] * (len(trial.ends) + 1)
        trial.drawn = []
    lengths = [0 if trial.forced else len(trial.ends) for trial in trials]
    forks = [0 if trial.forced else max(trial.fork, 0) for trial in trials]
    chosen = plan.schedule.choose(lengths, generator, forks)
    chosen = [[] if trial.forced else wanted for trial, wanted in zip(trials, chosen, strict=True)]
    measured: Measured = {}
    seeds = {
        prompt: int(torch.randint(2**62, (), generator=generator))
        for prompt in dict.fromkeys(map(tuple, request.prompts))
    }
    request = replace(request, seeds=seeds)
    while any(chosen):
        places = [
            {j: _place(prompt, trial, j) for j in wanted}
            for prompt, trial, wanted in zip(request.prompts, trials, chosen, strict=True)
        ]
        _measure(engine, plan, request, places, measured)
        for trial, boundaries in zip(trials, places, strict=True):
            for j, place in boundaries.items():
                trial.stop_values[j], trial.errors[j] = measured[place]
        chosen = [plan.schedule.refine(trial.stop_values) for trial in trials]
    for trial in trials:
        trial.kept = None


def _measure(
    engine: Engine, plan: ProbePlan, request: ProbeRequest, places: Sequence[dict[int, Place]], measured: Measured
) -> None:
    """Adds J at the places that are not measured yet. Equal prefixes (J_0 of a group) are asked about together, with
    the samples of all who ask: J_0 enters the first episode of every row.
    """
    traces, owners = [], []
    askers = Counter(place for boundaries in places for place in boundaries.values())
    asked = set(measured)
    for i, trial in enumerate(request.trials):
        fresh = {j: place for j, place in places[i].items() if place not in asked}
        asked |= set(fresh.values())
        if fresh:
            traces.append(
                Trace(
                    prompt=tuple(request.prompts[i]),
                    thought=tuple(trial.thought),
                    cuts=tuple(_cut(trial, j) for j in fresh),
                    row=request.rows[i],
                    opening=tuple(trial.completion[: trial.start]),
                    complete=trial.closed,
                    kept=trial.kept,
                    shared=tuple(askers[place] for place in fresh.values()),
                    seed=request.seeds[tuple(request.prompts[i])],
                )
            )
            owners.append((i, list(fresh.values())))
    results = plan.probe(engine, plan.fmt, traces, plan.judge)
    for (i, own), result in zip(owners, results, strict=True):
        measured |= zip(own, zip(result.values, result.errors, strict=True), strict=True)
        request.trials[i].drawn += [one for cut in result.drawn for one in cut]


def _cut(trial: Trial, j: int) -> int:
    return trial.ends[j - 1] if j else 0


def _place(prompt: Sequence[int], trial: Trial, j: int) -> Place:
    """What decides J_j: the ids before the boundary, and whether the thought is closed there in its own way."""
    cut = _cut(trial, j)
    own = j == len(trial.ends) and trial.closed and cut > 0
    return (*prompt, *trial.completion[: trial.start + cut], -1 - int(own))
