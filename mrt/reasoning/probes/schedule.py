"""Which boundaries of which traces are probed, because probes cost tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch


@dataclass(frozen=True)
class Schedule:
    """Which boundaries of which traces are probed, because probes cost tokens.

    Every `every`-th boundary with the first (J_0) and the last one always among them, then at most `at_most` of these
    (the two ends, and a random choice between), of a random `share` of the traces.

    With `moved` it is J_0 and the last boundary first, and the middle of every interval over which J moved by more than
    that, again and again: where J stays, nothing is asked.
    """

    every: int = 1
    at_most: int | None = None
    share: float = 1.0
    moved: float | None = None

    def choose(
        self, episodes: Sequence[int], generator: torch.Generator, forks: Sequence[int] | None = None
    ) -> list[list[int]]:
        """For every trace with K `episodes` the boundaries 0..K to probe, increasing; [] for a trace left out.

        A trace that begins behind an episode (`forks`, 0 where none is given) is probed from there on: what it was
        given is no progress of its own.
        """
        chosen: list[list[int]] = []
        for count, fork in zip(episodes, forks or [0] * len(episodes), strict=True):
            if self.share < 1 and float(torch.rand((), generator=generator)) >= self.share:
                chosen.append([])
                continue
            if count < fork:
                chosen.append([])
                continue
            inside = range(fork, count + 1, self.every) if self.moved is None else ()
            boundaries = sorted({fork, *inside, count})
            if self.at_most is not None and len(boundaries) > self.at_most:
                inner = boundaries[1:-1]
                order = torch.randperm(len(inner), generator=generator).tolist()
                kept = [inner[i] for i in order[: max(self.at_most - 2, 0)]]
                boundaries = sorted({boundaries[0], *kept, boundaries[-1]})
            chosen.append(boundaries)
        return chosen

    def refine(self, values: Sequence[float]) -> list[int]:
        """The boundaries to look at next, given J_0..J_K of a trace as far as measured (NaN elsewhere)."""
        if self.moved is None:
            return []
        measured = [j for j, value in enumerate(values) if not math.isnan(value)]
        return [
            (first + last + 1) // 2
            for first, last in pairwise(measured)
            if last - first > 1 and abs(values[last] - values[first]) > self.moved
        ]
