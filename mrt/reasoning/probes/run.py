"""Probing a batch of trials: which boundaries, and the stop values that come of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mrt.reasoning.engines.base import Engine
from mrt.reasoning.probes.base import Judge, Probe, Trace
from mrt.reasoning.probes.schedule import Schedule
from mrt.reasoning.traces.prompts import ThinkFormat
from mrt.reasoning.traces.trial import Trial


def probe_trials(
    engine: Engine,
    fmt: ThinkFormat,
    probe: Probe,
    schedule: Schedule,
    judge: Judge,
    prompts: Sequence[Sequence[int]],
    trials: Sequence[Trial],
    rows: Sequence[Mapping[str, Any]],
    generator: torch.Generator,
) -> None:
    """Measures J at the scheduled boundaries and writes it into the trials. Forced rows are not probed: they are
    answers themselves. A schedule that looks where J moved asks again until it is content.
    """
    for trial in trials:
        trial.stop_values = [math.nan] * (len(trial.ends) + 1)
        trial.errors = [math.nan] * (len(trial.ends) + 1)
    chosen = schedule.choose([0 if trial.forced else len(trial.ends) for trial in trials], generator)
    chosen = [[] if trial.forced else wanted for trial, wanted in zip(trials, chosen, strict=True)]
    known: dict[tuple[int, ...], tuple[float, float]] = {}  # equal prefixes (J_0 of a group) are measured once
    while any(chosen):
        places = [
            {j: _place(prompt, trial, j) for j in wanted if j >= max(trial.fork, 0)}
            for prompt, trial, wanted in zip(prompts, trials, chosen, strict=True)
        ]
        traces, owners = [], []
        asked = set(known)
        for i, trial in enumerate(trials):
            fresh = {j: place for j, place in places[i].items() if place not in asked}
            asked |= set(fresh.values())
            if fresh:
                cuts = tuple(trial.ends[j - 1] if j else 0 for j in fresh)
                opening = tuple(trial.completion[: trial.start])
                facts = (rows[i], opening, trial.closed, trial.kept)
                traces.append(Trace(tuple(prompts[i]), tuple(trial.thought), cuts, *facts))
                owners.append(list(fresh.values()))
        for own, result in zip(owners, probe(engine, fmt, traces, judge), strict=True):
            known |= zip(own, zip(result.values, result.errors, strict=True), strict=True)
        for trial, boundaries in zip(trials, places, strict=True):
            for j, place in boundaries.items():
                trial.stop_values[j], trial.errors[j] = known[place]
        chosen = [schedule.refine(trial.stop_values) for trial in trials]
    for trial in trials:
        trial.kept = None


def _place(prompt: Sequence[int], trial: Trial, j: int) -> tuple[int, ...]:
    """What decides J_j: the ids before the boundary, and whether the thought is closed there in its own way."""
    cut = trial.ends[j - 1] if j else 0
    own = j == len(trial.ends) and trial.closed and cut > 0
    return (*prompt, *trial.completion[: trial.start + cut], -1 - int(own))
