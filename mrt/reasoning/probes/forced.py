"""Probes by forced answers: J is the share of sampled answers that are right."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from mrt.errors import ConfigError
from mrt.reasoning.engines.base import Answers, Engine
from mrt.reasoning.engines.noise import Noise
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.probes.answers import AnswerRequest, forced_answers
from mrt.reasoning.probes.base import Drawn, Judge, Probed, Trace, branches_of, prefill_chunks
from mrt.reasoning.probes.weights import horvitz_thompson
from mrt.reasoning.traces.prompts import ThinkFormat, answer_end, answer_text


@dataclass(frozen=True)
class Sampled:
    """The mean reward of `samples` forced answers, drawn as the policy draws (`sampling`): unbiased, with standard
    error sqrt(J (1 - J) / (samples - 1)). A boundary that several traces share gets the samples of them all.

    `coupled` draws the answers at all boundaries of a problem with common random numbers: every J keeps its law, and
    the difference of two is exactly 0 where the distribution of answers did not move. Progress is such a difference. A
    shared boundary gets `samples` answers then, the same numbers as everywhere else.

    `weights="horvitz_thompson"` counts each distinct answer once, by its probability (`mrt.reasoning.probes.weights`).
    """

    samples: int = 4
    sampling: Sampling = Sampling()  # noqa: RUF009  (frozen)
    coupled: bool = False
    weights: str = "uniform"
    prover: str = field(default="forced", init=False)

    def __call__(self, engine: Engine, fmt: ThinkFormat, traces: Sequence[Trace], judge: Judge) -> list[Probed]:
        if self.coupled or self.sampling.temperature == 0:  # the same answer again tells nothing
            traces = [replace(trace, shared=()) for trace in traces]
        forced = force_answers(engine, fmt, traces, self.samples, self.sampling, coupled=self.coupled)
        results = []
        for answers, rewards in zip(forced, judge_answers(fmt, traces, forced, judge), strict=True):
            if self.weights == "horvitz_thompson":
                pairs = [horvitz_thompson(*one) for one in zip(answers, rewards, strict=True)]
            else:
                pairs = [self.estimate([r for r in cut if r is not None]) for cut in rewards]
            results.append(probed(pairs, answers, rewards))
        return results

    def estimate(self, rewards: Sequence[float]) -> tuple[float, float]:
        """(J, standard error) from the scorable rewards of one boundary; NaN where there are too few."""
        return mean_and_error(rewards)


@dataclass(frozen=True)
class Shrunk(Sampled):
    """The posterior mean and standard deviation of J under a Beta(a, b) prior: less variance, some bias towards a / (a
    + b).

    Raises:
        ConfigError: for a reward outside [0, 1], of which there is no such posterior.
    """

    a: float = 0.5
    b: float = 0.5

    def estimate(self, rewards: Sequence[float]) -> tuple[float, float]:
        n = len(rewards)
        if n == 0:
            return math.nan, math.nan
        if not all(0 <= reward <= 1 for reward in rewards):
            raise ConfigError(
                f"the 'shrunk' probe takes rewards in [0, 1], got {min(rewards):g} to {max(rewards):g}. Cure: "
                "probe='sampled', or rewards and reward_weights that stay in [0, 1]"
            )
        a, b = self.a + sum(rewards), self.b + n - sum(rewards)
        return a / (a + b), math.sqrt(a * b / (a + b + 1)) / (a + b)


@dataclass(frozen=True)
class Greedy(Sampled):
    """The reward of the one greedy answer: J of a deterministic prover, so its standard error is 0."""

    samples: int = field(default=1, init=False)
    sampling: Sampling = field(default=Sampling(temperature=0.0), init=False)

    def estimate(self, rewards: Sequence[float]) -> tuple[float, float]:
        return (rewards[0], 0.0) if rewards else (math.nan, math.nan)


@dataclass(frozen=True)
class Forced:
    """One forced answer: its text, the ids of the whole completion that it ends, its own ids, their probability under
    the sampling distribution (NaN where an engine does not say), and the hidden state (width,) before it, if asked for.
    """

    text: str
    completion: list[int]
    ids: tuple[int, ...] = ()
    probability: float = math.nan
    state: Tensor | None = field(default=None, compare=False, repr=False)


def force_answers(
    engine: Engine,
    fmt: ThinkFormat,
    traces: Sequence[Trace],
    samples: int,
    sampling: Sampling,
    *,
    coupled: bool = False,
    states: bool = False,
    chunks: Iterable[tuple[list[int], Any]] | None = None,
) -> list[list[list[Forced]]]:
    """For every trace and every cut `samples` answers that follow a forced close there, times `Trace.shared`; with
    `coupled`, all traces of one seed by the same noise. `chunks` are those of `prefill_chunks`, where they are there.
    """
    results: list[list[list[Forced]]] = [[] for _ in traces]
    for chunk, prefix in chunks or prefill_chunks(engine, traces):
        owners, branches = branches_of(traces, chunk, fmt)
        times = [n for i in chunk for n in traces[i].shared or (1,) * len(traces[i].cuts)]
        asked = [branch for branch, n in zip(branches, times, strict=True) for _ in range(n)]
        noise = None
        if coupled:
            places = [(i, k) for i, n in zip(owners, times, strict=True) for k in range(n)]
            noise = [[Noise(traces[i].seed, k * samples + s) for s in range(samples)] for i, k in places]
        request = AnswerRequest(samples, fmt.max_answer_tokens, sampling, noise=noise, states=states)
        answers = iter(forced_answers(engine, prefix, asked, fmt, request))
        for owner, branch, n in zip(owners, branches, times, strict=True):
            trace = traces[owner]
            cut = branch.cut - len(trace.prompt) - len(trace.opening)
            before = [*trace.opening, *trace.thought[:cut], *branch.suffix]
            results[owner].append([one for _ in range(n) for one in _read(next(answers), before, fmt)])
    return results


def _read(answers: Answers, before: Sequence[int], fmt: ThinkFormat) -> list[Forced]:
    """The answers of one branch, behind the ids of the completion up to them."""
    found = []
    for place, drawn in enumerate(answers.ids):
        # Where a brace is a token of its own, an answer was stopped at it: nothing to look for behind the end.
        ids = drawn[: answer_end(drawn, fmt)] if fmt.brace_ids else drawn
        chance = math.exp(sum(answers.logprobs[place][: len(ids)])) if answers.logprobs else math.nan
        found.append(Forced(answer_text(ids, fmt), [*before, *ids], tuple(ids), chance, answers.state))
    return found


def probed(
    pairs: Sequence[tuple[float, float]], answers: Sequence[Sequence[Forced]], rewards: Sequence[Sequence[float | None]]
) -> Probed:
    """What was measured at the cuts of one trace, and the answers behind it."""
    texts = tuple(tuple(one.text for one in cut) for cut in answers)
    drawn = tuple(against_the_others(*one) for one in zip(answers, rewards, strict=True))
    return Probed(tuple(value for value, _ in pairs), tuple(error for _, error in pairs), texts, drawn)


def against_the_others(answers: Sequence[Forced], rewards: Sequence[float | None]) -> tuple[Drawn, ...]:
    """The scorable answers of one boundary, each against the mean reward of the others; none where there is one."""
    scored = [(one, reward) for one, reward in zip(answers, rewards, strict=True) if reward is not None]
    total, count = sum(reward for _, reward in scored), len(scored)
    if count < 2:
        return ()
    return tuple(
        Drawn(tuple(one.completion), len(one.completion) - len(one.ids), reward - (total - reward) / (count - 1))
        for one, reward in scored
    )


def judge_answers(
    fmt: ThinkFormat, traces: Sequence[Trace], forced: Sequence[Sequence[Sequence[Forced]]], judge: Judge
) -> list[list[list[float | None]]]:
    """The rewards of `force_answers`, in the same nesting, by one call of the judge; NaN becomes None. Answers that are
    equal, with the thought before them, are judged once.
    """
    asked: dict[tuple[int, ...], tuple[Any, list[int]]] = {}
    for trace, cuts in zip(traces, forced, strict=True):
        for one in (one for cut in cuts for one in cut):
            asked[id(trace.row), *one.completion] = (trace.row, one.completion)
    if not asked:
        return [[] for _ in traces]
    ids = [completion for _, completion in asked.values()]
    texts = [fmt.tokenizer.decode(completion, skip_special_tokens=True) for completion in ids]
    rewards = dict(zip(asked, judge([row for row, _ in asked.values()], texts, ids), strict=True))
    return [
        [[_scorable(rewards[id(trace.row), *one.completion]) for one in cut] for cut in cuts]
        for trace, cuts in zip(traces, forced, strict=True)
    ]


def mean_and_error(rewards: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error; NaN where there are too few."""
    n = len(rewards)
    if n == 0:
        return math.nan, math.nan
    mean = sum(rewards) / n
    spread = sum((reward - mean) ** 2 for reward in rewards)
    return mean, math.sqrt(spread / (n - 1) / n) if n > 1 else math.nan


def jeffreys_interval(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Jeffreys interval of a probability: quantiles of Beta(successes + 1/2, failures + 1/2), 0 and 1 at the ends."""
    import mpmath

    def quantile(q: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            inside = float(mpmath.betainc(successes + 0.5, n - successes + 0.5, 0, middle, regularized=True))
            low, high = (middle, high) if inside < q else (low, middle)
        return (low + high) / 2

    tail = (1 - level) / 2
    return (0.0 if successes == 0 else quantile(tail)), (1.0 if successes == n else quantile(1 - tail))


def _scorable(reward: float | None) -> float | None:
    return None if reward is None or math.isnan(reward) else float(reward)
