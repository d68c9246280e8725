"""Trials in text as they come, and the record of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mrt.trials import PROVERS, Stop, Trials

FIELDS: dict[str, tuple[torch.dtype, float]] = {
    "mask": (torch.bool, False),
    "rewards": (torch.float32, 0.0),
    "episode": (torch.long, -1),
    "logprobs": (torch.float32, 0.0),
}


@dataclass
class Line:
    """One trial: for every token but the first whether it was chosen, its reward, attempt and log-probability; the ends
    of its attempts, what each earned, and J at the boundaries.

    A reply belongs to the attempt that it answers; what opens the trial belongs to none.
    """

    mask: list[bool] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    episode: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)
    earned: list[float] = field(default_factory=list)
    stop_values: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    stop: int = int(Stop.PADDING)  # until the trial is over
    attempt: int = 0
    turns: int = 0
    unread: int = 0

    @staticmethod
    def opened(tokens: int) -> Line:
        """A trial whose opening has so many tokens."""
        given = tokens - 1
        return Line([False] * given, [0.0] * given, [-1] * given, [0.0] * given)

    def acted(self, logprobs: Sequence[float], reward: float) -> None:
        """An action of so many tokens; its reward stands at the last of them."""
        count = len(logprobs)
        self.turns += 1
        self.mask += [True] * count
        self.rewards += [*[0.0] * (count - 1), reward]
        self.episode += [self.attempt] * count
        self.logprobs += logprobs
        if len(self.earned) == self.attempt:
            self.earned.append(0.0)
        self.earned[self.attempt] += reward

    def told(self, tokens: int) -> None:
        """A reply of so many tokens."""
        self.mask += [False] * tokens
        self.rewards += [0.0] * tokens
        self.episode += [self.attempt] * tokens
        self.logprobs += [0.0] * tokens

    def end_attempt(self, stop: Stop = Stop.TERMINATED) -> None:
        """The attempt is over; the next one begins."""
        self.stops.append(int(stop))
        self.attempt += 1

    def measured(self, value: float, error: float) -> None:
        """J of the boundary that is reached, and its standard error."""
        self.stop_values.append(value)
        self.errors.append(error)

    def cut(self) -> None:
        """No room is left: the trial ends here, within an attempt or between two."""
        if len(self.earned) > self.attempt:
            self.end_attempt(Stop.BUDGET)
        self.stop = int(Stop.BUDGET)


def record(
    ids: Sequence[Sequence[int]],
    lines: Sequence[Line],
    *,
    pad_id: int,
    prover: str = "none",
    spent: Mapping[str, float] | None = None,
    **fields: Any,
) -> Trials:
    """The record of trials in text, padded on the right: step t sees ids[:t+1] and takes ids[t+1].

    Args:
        ids: what each row said and read.
        spent: positions through the model by purpose; the rows share them by their tokens.
        fields: group, task, task_keys, privileged.
    """
    width = max(map(len, ids))
    table = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in ids])
    steps: dict[str, Any] = {
        name: _padded([getattr(line, name) for line in lines], width - 1, *FIELDS[name]) for name in FIELDS
    }
    attempts = max(len(line.stops) for line in lines)
    share = torch.tensor([float(len(row)) for row in ids])
    share = share / share.sum()
    measured: dict[str, Any] = {}
    if prover != "none":
        measured = {
            "stop_values": _padded([line.stop_values for line in lines], attempts + 1, torch.float32, math.nan),
            "stop_value_se": _padded([line.errors for line in lines], attempts + 1, torch.float32, math.nan),
            "prover": torch.full((len(lines),), PROVERS[prover], dtype=torch.int8),
        }
    return Trials(
        inputs={"input_ids": table[:, :-1]},
        actions=table[:, 1:],
        stop=_padded([line.stops for line in lines], attempts, torch.int8, int(Stop.PADDING)),
        trial_stop=torch.tensor([line.stop for line in lines], dtype=torch.int8),
        cost={name: share * float(total) for name, total in (spent or {}).items()},
        **steps,
        **measured,
        **fields,
    )


def _padded(rows: Sequence[Sequence[float]], width: int, kind: torch.dtype, fill: float) -> Tensor:
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], dtype=kind)
