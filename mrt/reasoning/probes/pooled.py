"""J from the answers of a whole group: what one boundary draws is scored at all boundaries of the problem."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mrt.errors import ConfigError
from mrt.reasoning.engines.base import Engine
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.probes.base import Chunks, Judge, Probed, Trace, branches_of
from mrt.reasoning.probes.forced import Forced, force_answers, judge_answers, mean_and_error, probed
from mrt.reasoning.traces.prompts import ThinkFormat

Ids = tuple[int, ...]


@dataclass
class Pool:
    """What the boundaries of one problem drew: how often each rewarded answer, and the sum of its rewards."""

    draws: int = 0
    unscored: int = 0
    seen: dict[Ids, int] = field(default_factory=lambda: defaultdict(int))
    paid: dict[Ids, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, answers: Sequence[Forced], rewards: Sequence[float | None]) -> None:
        """The answers of one boundary."""
        self.draws += len(answers)
        for answer, reward in zip(answers, rewards, strict=True):
            self.unscored += reward is None
            if reward:
                self.seen[answer.ids] += 1
                self.paid[answer.ids] += reward

    def best(self, most: int) -> list[Ids]:
        """The rewarded answers, those drawn most often first, at most so many."""
        return sorted(self.seen, key=lambda ids: -self.seen[ids])[:most]


@dataclass(frozen=True)
class Pooled:
    """J_j = sum over the rewarded answers a that any boundary of the problem drew of r_a p_j(a) / pi_a, where p_j(a) is
    the exact probability of a at boundary j and pi_a = 1 - prod_k (1 - p_k(a))^n_k the chance that one of all draws
    holds it: Horvitz and Thompson 1952 over the draws of all boundaries k of a group's traces together.

    Unbiased, as each answer counts by the inverse of its chance to be drawn; it needs a verifier, and a reward that
    depends on the answer alone. Noise is left where an answer is rare at every boundary. The difference of two J is 0
    where the distribution did not move. Beyond the `most` answers drawn most often, the others count as in `Sampled`,
    and which these are depends on the draws (a bias below their share). An answer that cannot be scored counts as 0,
    unless none of a problem's can.

    Raises:
        ConfigError: for a forced close behind which steps are due: no answer would be drawn twice.
    """

    samples: int = 2
    sampling: Sampling = Sampling()  # noqa: RUF009  (frozen)
    most: int = 32
    prover: str = field(default="forced", init=False)

    def __call__(self, engine: Engine, fmt: ThinkFormat, traces: Sequence[Trace], judge: Judge) -> list[Probed]:
        if fmt.steps_first:
            raise ConfigError(
                "the 'pooled' probe scores answers right behind the forced close, where forced_style=paper writes "
                "steps first. Cure: forced_style='short', or probe='coupled'"
            )
        chunks = Chunks(engine, [replace(trace, shared=()) for trace in traces])
        forced = force_answers(engine, fmt, chunks.traces, self.samples, self.sampling, chunks=chunks)
        rewards = judge_answers(fmt, traces, forced, judge)
        pools: dict[Ids, Pool] = defaultdict(Pool)
        for trace, answers, paid in zip(traces, forced, rewards, strict=True):
            for cut, theirs in zip(answers, paid, strict=True):
                pools[trace.prompt].add(cut, theirs)
        right = {prompt: pool.best(self.most) for prompt, pool in pools.items()}
        chances = self._chances(engine, fmt, chunks, right)
        results: list[Probed] = [Probed((), ())] * len(traces)
        for prompt, pool in pools.items():
            mine = [i for i, trace in enumerate(traces) if trace.prompt == prompt]
            known = estimates(np.array([row for i in mine for row in chances[i]]), pool, right[prompt], self.samples)
            for i in mine:
                others = [unknown(*one, set(right[prompt])) for one in zip(forced[i], rewards[i], strict=True)]
                pairs = [(v + w, math.hypot(e, f)) for (v, e), (w, f) in zip(known, others, strict=False)]
                results[i] = probed(pairs, forced[i], rewards[i])
                known = known[len(others) :]
        return results

    def _chances(
        self, engine: Engine, fmt: ThinkFormat, chunks: Chunks, right: Mapping[Ids, Sequence[Ids]]
    ) -> list[list[list[float]]]:
        """The probability of every rewarded answer of its problem at every cut of every trace."""
        found: list[list[list[float]]] = [[] for _ in chunks.traces]
        for chunk, prefix in chunks:
            owners, branches = branches_of(chunks.traces, chunk, fmt)
            asked = [right[chunks.traces[i].prompt] for i in owners]
            scores = engine.score(prefix, branches, asked, sampling=self.sampling)
            for owner, score in zip(owners, scores, strict=True):
                found[owner].append(score.exp().tolist())
        return found


def estimates(table: Any, pool: Pool, right: Sequence[Ids], samples: int) -> list[tuple[float, float]]:
    """(J, standard error) at every boundary, from the chances `table` (boundaries, answers) of the rewarded answers.

    The variance is that of Horvitz and Thompson without the covariances between answers, which are negative.
    """
    if pool.unscored == pool.draws:
        return [(math.nan, math.nan)] * len(table)
    if not right:
        return [(0.0, 0.0)] * len(table)
    with np.errstate(divide="ignore"):
        drawn = -np.expm1(samples * np.log1p(-np.minimum(table, 1.0)).sum(0))  # pi
    worth = np.array([pool.paid[ids] / pool.seen[ids] for ids in right])
    terms = table * np.divide(worth, drawn, out=np.zeros_like(worth), where=drawn > 0)
    errors = np.sqrt(((1 - drawn) * terms**2).sum(1))
    return list(zip(terms.sum(1).tolist(), errors.tolist(), strict=True))


def unknown(answers: Sequence[Forced], rewards: Sequence[float | None], known: set[Ids]) -> tuple[float, float]:
    """The mean reward of what is not among the `known` answers, and its standard error."""
    paid = [0.0 if one.ids in known else reward or 0.0 for one, reward in zip(answers, rewards, strict=True)]
    return mean_and_error(paid) if any(paid) else (0.0, 0.0)
