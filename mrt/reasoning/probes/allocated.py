"""Answers where they tell most: a few at every boundary first, the rest of the budget where those disagreed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mrt.errors import ConfigError
from mrt.reasoning.engines.base import Engine
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.probes.base import Judge, Probed, Trace
from mrt.reasoning.probes.forced import force_answers, judge_answers, mean_and_error, probed
from mrt.reasoning.traces.prompts import ThinkFormat


@dataclass(frozen=True)
class Allocated:
    """`pilot` answers at every boundary, then `samples - pilot` a boundary on average, spread in proportion to the
    standard deviation that the pilot leaves likely (Neyman 1934), times the root of how many traces ask; one at least.

    J is a fixed mixture of the two means, pilot : rest = pilot : samples - pilot. How many answers come second depends
    on the pilot, the weight of neither does: unbiased. Needs `samples` above `pilot`.

    Raises:
        ConfigError: for too few samples.
    """

    samples: int = 4
    sampling: Sampling = Sampling()  # noqa: RUF009  (frozen)
    pilot: int = 2
    prover: str = field(default="forced", init=False)

    def __post_init__(self) -> None:
        if self.samples <= self.pilot:
            raise ConfigError(f"probe='allocated' needs probe_samples of at least {self.pilot + 1}, got {self.samples}")

    def __call__(self, engine: Engine, fmt: ThinkFormat, traces: Sequence[Trace], judge: Judge) -> list[Probed]:
        alone = [replace(trace, shared=()) for trace in traces]
        first = force_answers(engine, fmt, alone, self.pilot, self.sampling)
        early = judge_answers(fmt, traces, first, judge)
        asked = self._spread(traces, early)
        second = force_answers(engine, fmt, asked, 1, self.sampling)
        late = judge_answers(fmt, traces, second, judge)
        results = []
        for answers, more, paid, rest in zip(first, second, early, late, strict=True):
            pairs = [self._mixed(a, b) for a, b in zip(paid, rest, strict=True)]
            all_of_them = [[*a, *b] for a, b in zip(answers, more, strict=True)]
            results.append(probed(pairs, all_of_them, [[*a, *b] for a, b in zip(paid, rest, strict=True)]))
        return results

    def _spread(self, traces: Sequence[Trace], early: Sequence[Sequence[Sequence[float | None]]]) -> list[Trace]:
        """The traces with how many answers come second at each cut (`Trace.shared`)."""
        want = []
        for trace, cuts in zip(traces, early, strict=True):
            for rewards, asking in zip(cuts, trace.shared or (1,) * len(trace.cuts), strict=True):
                scored = [min(max(r, 0.0), 1.0) for r in rewards if r is not None]
                guess = (sum(scored) + 0.5) / (len(scored) + 1)
                want.append(math.sqrt(guess * (1 - guess) * asking))
        budget = (self.samples - self.pilot) * len(want)
        total, place, found = sum(want) or 1.0, 0, []
        for trace in traces:
            own = want[place : place + len(trace.cuts)]
            found.append(replace(trace, shared=tuple(max(1, round(budget * one / total)) for one in own)))
            place += len(own)
        return found

    def _mixed(self, early: Sequence[float | None], late: Sequence[float | None]) -> tuple[float, float]:
        """(J, standard error); only one of the two parts where the other could not be scored."""
        parts = [mean_and_error([r for r in part if r is not None]) for part in (early, late)]
        known = [one for one in parts if not math.isnan(one[0])]
        if len(known) < 2:
            return known[0] if known else (math.nan, math.nan)
        share = self.pilot / self.samples
        errors = [0.0 if math.isnan(error) else error for _, error in parts]
        mean = share * parts[0][0] + (1 - share) * parts[1][0]
        return mean, math.hypot(share * errors[0], (1 - share) * errors[1])
