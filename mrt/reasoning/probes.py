"""Probes: the meta-prover mu asked at the boundaries of a trace. If thinking stops here and the model must answer, is
it right?

J_j = J_r(mu(. | x, z_0:j)) of Qu et al. 2025 (2503.07572, section 4), mu being the model itself behind a forced close.
A probe returns J and its standard error at every cut of every trace; a trace goes through the model once, whatever the
number of its cuts and answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mrt.errors import ConfigError, nearest
from mrt.reasoning.engines.base import Branch, Engine
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.prompts import ThinkFormat, answer_end, answer_text, forced_prefix

Judge = Callable[[Sequence[Mapping[str, Any]], Sequence[str], Sequence[Sequence[int]]], Sequence[float | None]]
"""(rows, completion texts, completion ids) -> rewards in [0, 1], None where an answer cannot be scored."""

MAX_SOLUTIONS = 200


@dataclass(frozen=True)
class Trace:
    """A thought to be stopped at `cuts` (numbers of its tokens, increasing; 0 answers at once).

    `prompt` are the ids before the completion, `opening` those of the completion before the thought (the open tag,
    where the prompt did not write it). `complete` says that the thought ended by itself: its last cut is closed without
    a word about time. `kept` are the keys and values from acting, which save the pass over the trace.
    """

    prompt: tuple[int, ...]
    thought: tuple[int, ...]
    cuts: tuple[int, ...]
    row: Mapping[str, Any]
    opening: tuple[int, ...] = ()
    complete: bool = False
    kept: Any = None

    def suffix(self, cut: int, fmt: ThinkFormat) -> tuple[int, ...]:
        """The forced close that fits the thought at `cut`."""
        done = self.complete and cut == len(self.thought)
        return tuple(forced_prefix(self.thought[:cut], fmt, complete=done))


@dataclass(frozen=True)
class Probed:
    """J and its standard error at every cut of one trace, NaN where nothing could be scored; the sampled answers, if
    any.
    """

    values: tuple[float, ...]
    errors: tuple[float, ...]
    answers: tuple[tuple[str, ...], ...] = ()


class Probe(Protocol):
    """`prover` is what a credit asks for; `privileged` probes read the row's solutions."""

    @property
    def prover(self) -> str: ...

    def __call__(self, engine: Engine, fmt: ThinkFormat, traces: Sequence[Trace], judge: Judge) -> list[Probed]: ...


@dataclass(frozen=True)
class Sampled:
    """The mean reward of `samples` forced answers: unbiased, with standard error sqrt(J (1 - J) / (samples - 1))."""

    samples: int = 4
    temperature: float = 1.0
    prover: str = field(default="forced", init=False)

    def __call__(self, engine: Engine, fmt: ThinkFormat, traces: Sequence[Trace], judge: Judge) -> list[Probed]:
        forced = force_answers(engine, fmt, traces, self.samples, Sampling(temperature=self.temperature))
        results = []
        for answers, rewards in zip(forced, judge_answers(fmt, traces, forced, judge), strict=True):
            pairs = [self.estimate([r for r in cut if r is not None]) for cut in rewards]
            texts = tuple(tuple(one.text for one in cut) for cut in answers)
            results.append(Probed(tuple(p[0] for p in pairs), tuple(p[1] for p in pairs), texts))
        return results

    def estimate(self, rewards: Sequence[float]) -> tuple[float, float]:
        """(J, standard error) from the scorable rewards of one boundary; NaN where there are too few."""
        n = len(rewards)
        if n == 0:
            return math.nan, math.nan
        mean = sum(rewards) / n
        spread = sum((reward - mean) ** 2 for reward in rewards)
        return mean, math.sqrt(spread / (n - 1) / n) if n > 1 else math.nan


@dataclass(frozen=True)
class Shrunk(Sampled):
    """The posterior mean and standard deviation of J under a Beta(a, b) prior: less variance, some bias towards a / (a
    + b).
    """

    a: float = 0.5
    b: float = 0.5

    def estimate(self, rewards: Sequence[float]) -> tuple[float, float]:
        n = len(rewards)
        if n == 0:
            return math.nan, math.nan
        a, b = self.a + sum(rewards), self.b + n - sum(rewards)
        return a / (a + b), math.sqrt(a * b / (a + b + 1)) / (a + b)


@dataclass(frozen=True)
class Greedy(Sampled):
    """The reward of the one greedy answer: J of a deterministic prover, so its standard error is 0."""

    samples: int = field(default=1, init=False)
    temperature: float = field(default=0.0, init=False)

    def estimate(self, rewards: Sequence[float]) -> tuple[float, float]:
        return (rewards[0], 0.0) if rewards else (math.nan, math.nan)


@dataclass(frozen=True)
class Gold:
    """The teacher-forced probability of the gold answers, summed: no answer is sampled, the standard error is 0.

    Where the row's `solutions` list every accepted answer (Countdown), this is the exact J of the forced answer at
    temperature 1. With one `solution` out of many spellings it is a lower bound that rises with J (the surrogate of
    GRPO-VPS, 2604.20659). With a `tolerance` unlikely beginnings of answers are let go, which takes a fraction of the
    positions; J is then low by at most that much.

    Raises:
        ConfigError: for a row without solutions, or with more than 200 of them, or a tolerance outside [0, 1).
    """

    tolerance: float = 0.0
    prover: str = field(default="forced", init=False)

    def __call__(self, engine: Engine, fmt: ThinkFormat, traces: Sequence[Trace], judge: Judge) -> list[Probed]:
        results: list[Probed] = [Probed((), ())] * len(traces)
        known: dict[tuple[str, ...], list[list[int]]] = {}
        solutions = []
        for trace in traces:
            texts = self.solution_texts(trace.row)
            if texts not in known:
                known[texts] = self.solution_ids(texts, fmt)
            solutions.append(known[texts])
        for chunk, prefix in prefill_chunks(engine, traces):
            owners, branches = _branches(traces, chunk, fmt)
            scores = engine.score(prefix, branches, [solutions[i] for i in owners], self.tolerance)
            values: dict[int, list[float]] = {i: [] for i in chunk}
            for owner, score in zip(owners, scores, strict=True):
                values[owner].append(min(1.0, float(score.exp().sum())))
            for i in chunk:
                results[i] = Probed(tuple(values[i]), (0.0,) * len(values[i]))
        return results

    @staticmethod
    def solution_texts(row: Mapping[str, Any]) -> tuple[str, ...]:
        """The gold answers of a row."""
        texts = row.get("solutions") or ([row["solution"]] if row.get("solution") else None)
        if not texts:
            raise ConfigError(
                "the 'gold' probe needs a column 'solutions' (or 'solution') with the gold answers; "
                f"this row has {sorted(row)}. Cure: probe='sampled'"
            )
        if len(texts) > MAX_SOLUTIONS:
            raise ConfigError(
                f"the 'gold' probe would score {len(texts)} solutions at every boundary of '{row.get('key', '?')}', "
                f"more than {MAX_SOLUTIONS}. Cure: probe='sampled'"
            )
        return tuple(texts)

    @staticmethod
    def solution_ids(texts: Sequence[str], fmt: ThinkFormat) -> list[list[int]]:
        """Ids of every gold answer, each with what closes it: the brace of the box, or the end of the turn."""
        closing = [] if fmt.answer_close_text else list(fmt.end_ids[:1])
        encode = fmt.tokenizer
        return [
            [*encode(text + fmt.answer_close_text, add_special_tokens=False)["input_ids"], *closing] for text in texts
        ]


PROBES: dict[str, Callable[..., Probe]] = {"sampled": Sampled, "shrunk": Shrunk, "greedy": Greedy, "gold": Gold}


def make_probe(name: str, samples: int = 4, tolerance: float = 0.0) -> Probe:
    """The probe called `name`: `samples` forced answers a boundary where it samples, `tolerance` of the gold one."""
    if name not in PROBES:
        raise ConfigError(f"probe '{name}' is unknown; {nearest(name, set(PROBES))}")
    if name in ("sampled", "shrunk"):
        if samples < 1:
            raise ConfigError(f"probe_samples must be at least 1, got {samples}")
        return PROBES[name](samples=samples)
    if name == "gold":
        if not 0 <= tolerance < 1:
            raise ConfigError(f"probe_tolerance must be at least 0 and below 1, got {tolerance}")
        return PROBES[name](tolerance=tolerance)
    return PROBES[name]()


def prefill_chunks(engine: Engine, traces: Sequence[Trace]) -> Iterator[tuple[list[int], Any]]:
    """Chunks of trace indices with the keys and values of each trace up to its last cut. Traces without cuts are left
    out.
    """
    wanted = [i for i, trace in enumerate(traces) if trace.cuts]
    sequences = {i: (*traces[i].prompt, *traces[i].opening, *traces[i].thought[: traces[i].cuts[-1]]) for i in wanted}
    for positions in engine.chunks([len(sequences[i]) for i in wanted]):
        chunk = [wanted[p] for p in positions]
        kept = [traces[i].kept for i in chunk]
        if all(kept):
            yield chunk, engine.restore([row for row in kept if row is not None])
        else:
            yield chunk, engine.prefill([sequences[i] for i in chunk], purpose="probed")


@dataclass(frozen=True)
class Forced:
    """One forced answer: its text, and the ids of the whole completion that it ends."""

    text: str
    completion: list[int]


def force_answers(
    engine: Engine, fmt: ThinkFormat, traces: Sequence[Trace], samples: int, sampling: Sampling
) -> list[list[list[Forced]]]:
    """For every trace and every cut `samples` answers that follow a forced close there."""
    results: list[list[list[Forced]]] = [[] for _ in traces]
    for chunk, prefix in prefill_chunks(engine, traces):
        owners, branches = _branches(traces, chunk, fmt)
        answers = engine.answers(prefix, branches, samples, fmt.max_answer_tokens, fmt.answer_stop_ids, sampling)
        for owner, branch, answer in zip(owners, branches, answers, strict=True):
            trace = traces[owner]
            cut = branch.cut - len(trace.prompt) - len(trace.opening)
            before = [*trace.opening, *trace.thought[:cut], *branch.suffix]
            kept = [ids[: answer_end(ids, fmt)] for ids in answer.ids]
            results[owner].append([Forced(answer_text(ids, fmt), [*before, *ids]) for ids in kept])
    return results


def judge_answers(
    fmt: ThinkFormat, traces: Sequence[Trace], forced: Sequence[Sequence[Sequence[Forced]]], judge: Judge
) -> list[list[list[float | None]]]:
    """The rewards of `force_answers`, in the same nesting, by one call of the judge; NaN becomes None."""
    flat = [(trace.row, one.completion) for trace, cuts in zip(traces, forced, strict=True) for c in cuts for one in c]
    if not flat:
        return [[] for _ in traces]
    ids = [completion for _, completion in flat]
    texts = [fmt.tokenizer.decode(completion, skip_special_tokens=True) for completion in ids]
    rewards = iter(judge([row for row, _ in flat], texts, ids))
    return [[[_scorable(next(rewards)) for _ in cut] for cut in cuts] for cuts in forced]


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


def _branches(traces: Sequence[Trace], chunk: Sequence[int], fmt: ThinkFormat) -> tuple[list[int], list[Branch]]:
    """One branch a cut, with the trace that owns it."""
    owners, branches = [], []
    for row, i in enumerate(chunk):
        start = len(traces[i].prompt) + len(traces[i].opening)
        for cut in traces[i].cuts:
            owners.append(i)
            branches.append(Branch(row, start + cut, traces[i].suffix(cut, fmt)))
    return owners, branches


def _scorable(reward: float | None) -> float | None:
    return None if reward is None or math.isnan(reward) else float(reward)
