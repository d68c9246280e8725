"""One sampled trial on token level: its episodes, and the stop values measured at their boundaries."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mrt.reasoning.engines.base import Engine
from mrt.reasoning.probes import Judge, Probe, Trace
from mrt.reasoning.prompts import ThinkFormat, thought_span
from mrt.reasoning.schedule import Schedule

Segment = Callable[[Sequence[int], Any], list[int]]


@dataclass
class Trial:
    """One sampled trial on token level: completion ids, their episodes, and what was measured at the boundaries.

    `start` is where the thought begins in the completion, `ends` the exclusive ends of its episodes counted from there,
    `given` the number of leading completion tokens that the policy did not choose in this rollout. `stop_values` are
    J_0..J_K, NaN where not measured.
    """

    completion: list[int]
    start: int = 0
    ends: list[int] = field(default_factory=list)
    closed: bool = False
    chosen: list[int] | None = None  # 1 for a token chosen now by the policy; None: all of them
    fork: int = -1
    age: int = 0
    forced: bool = False
    logprobs: list[float] | None = None
    stop_values: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    kept: Any = None  # what the engine kept of acting (`Answers.kept`), until the trial has been probed

    @property
    def thought(self) -> list[int]:
        """Ids of the thought, without its tags."""
        return self.completion[self.start : self.start + (self.ends[-1] if self.ends else 0)]


def read_trial(completion: Sequence[int], fmt: ThinkFormat, segment: Segment) -> Trial:
    """The thought of a completion and its episodes; a thought that was never closed runs to the end (without an end
    token).
    """
    ids = list(completion)
    start, close = thought_span(ids, fmt)
    stop = close if close is not None else len(ids) - (1 if ids and ids[-1] in fmt.end_ids else 0)
    thought = ids[start:stop]
    return Trial(ids, start, segment(thought, fmt.tokenizer) if thought else [], close is not None)


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
