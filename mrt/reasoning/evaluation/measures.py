"""What test-time compute bought, beyond accuracy at a budget: votes, over- and underthinking, calibration of J.

Pure functions, numpy only. S samples, P problems, N budgets; NaN and None are "not measured", never zero. Intervals
are of problems resampled, the samples of one problem kept together.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mrt.metrics.bootstrap import FloatArray, Interval, bootstrap, bootstrap_sums
from mrt.metrics.budgets import area_under_budget, maj_at_k, pass_at_k, rewards_at_budgets

BINS = 10
SURE = 0.95  # of a level that J has to have reached


def answer_form(text: str | None) -> str | None:
    """The form in which two answers are one vote: outer LaTeX spacing, `$` and blanks dropped, numbers as written.

    It joins spellings by their text alone (`1 / 2` and `1/2`, not 0.5): joining by the grader would use the gold
    answer. None for an answer without text.
    """
    if text is None:
        return None
    bare = text.strip().rstrip(".").strip("$").replace("\\left", "").replace("\\right", "").replace("\\dfrac", "\\frac")
    for space in ("\\!", "\\,", "\\;", "\\ "):
        bare = bare.replace(space, "")
    return "".join(bare.split()) or None


def votes_of(answers: Sequence[Mapping[str, Any]]) -> tuple[list[Hashable | None], list[float | None]]:
    """(answers as votes, rewards) of graded answers, as `maj_at_k` takes them.

    Unparsed and truncated ones vote for nothing. Where the grader judged one form in two ways, they are two answers.
    """
    forms: list[Hashable | None] = []
    for one in answers:
        form = answer_form(one.get("answer")) if one["verdict"] not in ("unparsed", "truncated") else None
        forms.append(None if form is None else (form, one["reward"]))
    return forms, [one["reward"] for one in answers]


def powers(n: int) -> list[int]:
    """1, 2, 4, ... and n itself: the k of pass@k and maj@k."""
    return sorted({*(2**i for i in range(n.bit_length()) if 2**i <= n), n}) if n > 0 else []


def pass_at_k_curve(rewards: Sequence[Sequence[float | None]], ks: Sequence[int]) -> list[dict[str, Any]]:
    """Mean over problems of the unbiased pass@k (Chen et al. 2021, arXiv 2107.03374) with its interval, for every k.

    Args:
        rewards: P rows, 0 or 1 a sample, None where unscorable. Only problems with k scored samples count for k.
    """
    lines = []
    for k in ks:
        scored = [[value for value in row if value is not None and value == value] for row in rewards]
        values = [pass_at_k(len(row), sum(value > 0.5 for value in row), k) for row in scored if len(row) >= k]
        if values:
            lines.append({"k": k, "n": len(values), **asdict(bootstrap(values))})
    return lines


def maj_at_k_curve(groups: Sequence[Sequence[Mapping[str, Any]]], ks: Sequence[int]) -> list[dict[str, Any]]:
    """Mean over problems of the exact maj@k (`mrt.metrics.budgets.maj_at_k`: expectation over all subsets, ties
    broken evenly).

    Args:
        groups: P groups of graded answers {"answer", "verdict", "reward"}.
    """
    pairs = [votes_of(group) for group in groups]
    lines = []
    for k in ks:
        values = [
            maj_at_k(forms, rewards, k)
            for forms, rewards in pairs
            if sum(one is not None and one == one for one in rewards) >= k
        ]
        if values:
            lines.append({"k": k, "n": len(values), **asdict(bootstrap(values))})
    return lines


def majority_after_episodes(votes: Sequence[Sequence[Mapping[str, Any]]], p: int) -> list[float]:
    """[maj@p]_j of one trace: chance that the vote of p answers forced after episode j is right (Qu et al. 2025,
    section 5), for j = 0..K; NaN where fewer than p answers could be scored."""
    values = []
    for group in votes:
        forms, rewards = votes_of(group)
        scored = sum(one is not None for one in rewards)
        values.append(maj_at_k(forms, rewards, p) if scored >= p else float("nan"))
    return values


@dataclass(frozen=True)
class Thinking:
    """Of one trace: tokens written after J first reached the level, tokens in all, whether a right prefix was left."""

    after: float
    tokens: float
    reached: bool
    right: bool

    @property
    def abandoned(self) -> bool:
        """Some prefix was right more often than not, the answer is wrong."""
        return self.reached and not self.right


@lru_cache(maxsize=4096)
def chance_above(successes: float, n: int, level: float = 0.5) -> float:
    """P(J >= level) after `successes` in `n` answers, under Jeffreys' prior Beta(1/2, 1/2)."""
    import mpmath

    return float(mpmath.betainc(successes + 0.5, n - successes + 0.5, level, 1, regularized=True))


def thinking_of(
    ends: Sequence[float],
    stop_values: Sequence[float],
    right: bool,
    tokens: float,
    level: float = 0.5,
    *,
    answers: Sequence[Sequence[float]] | None = None,
) -> Thinking:
    """Over- and underthinking of one trace from J_0..J_K at `ends` (0, then the end of every episode).

    A trace overthinks by the tokens behind the first boundary where J >= `level`; it underthinks where it had reached
    the level and ends wrong.

    Args:
        answers: the rewards of the answers that each J was estimated from; None for an exact J. A boundary has then
            reached the level where that is at least 95 % sure (`chance_above`): the first of many noisy estimates above
            it is nearly always there, whatever J is.
    """
    if answers is None:
        above = [value >= level for value in stop_values]
    else:
        above = [bool(drawn) and chance_above(sum(drawn), len(drawn), level) >= SURE for drawn in answers]
    first = next((end for end, reached in zip(ends, above, strict=True) if reached), None)
    return Thinking(0.0 if first is None else max(0.0, tokens - first), tokens, first is not None, right)


def thinking_summary(traces: Sequence[Thinking], problems: Sequence[Hashable]) -> dict[str, Any]:
    """Shares over traces, each a ratio of sums with its interval over problems.

    overthinking: tokens behind the first boundary with J at the level, over all tokens of the traces that reached it.
    underthinking: wrong traces that had reached it, over all wrong traces. reached: traces that reached it at all.
    """
    sums = np.array(
        [
            [
                one.after if one.reached else 0.0,
                one.tokens if one.reached else 0.0,
                one.abandoned,
                not one.right,
                one.reached,
                1.0,
            ]
            for one in traces
        ],
        dtype=float,
    )
    table = _by_problem(sums, problems)
    names = {"overthinking": (0, 1), "underthinking": (2, 3), "reached": (4, 5)}
    return {name: asdict(_share(table, *columns)) for name, columns in names.items()}


def overthinking_adjusted(
    thinking_tokens: ArrayLike, own_reward: ArrayLike, truncated: ArrayLike, budgets: Sequence[float]
) -> FloatArray:
    """(S,) area under the accuracy where a thought longer than the cap fails, over [0, C_0]: the overthinking-adjusted
    accuracy of OptimalThinkingBench (arXiv 2508.13141), on our grid of caps."""
    nothing = np.zeros((len(np.asarray(thinking_tokens)), len(budgets)))
    own = np.where(np.asarray(truncated, dtype=bool), 0.0, np.asarray(own_reward, dtype=float))
    curve = rewards_at_budgets(thinking_tokens, own, nothing, budgets)
    known = ~np.isnan(curve).any(axis=1)
    area = np.full(len(curve), np.nan)
    if known.any():
        area[known] = area_under_budget(budgets, curve[known])
    return area


def calibration(
    forecast: ArrayLike,
    outcome: ArrayLike,
    problems: Sequence[Hashable],
    bins: int = BINS,
    *,
    answers: Sequence[Sequence[float] | None] | None = None,
) -> dict[str, Any] | None:
    """How far J can be trusted as a probability: reliability curve, expected calibration error, Brier score.

    Bins are of equal width, the last one closed. ECE = sum_b n_b / S |mean outcome_b - mean J_b|; Brier = mean of
    (J - outcome)^2.

    Args:
        forecast: (S,) J in [0, 1]; outcome: (S,) 0 or 1. Pairs with a NaN are left out.
        answers: (S,) the rewards that each J was estimated from, None for an exact J. The noise of an estimate would
            count as miscalibration: so every answer is set against the outcome in the bin that the *other* answers
            choose, and the variance of the estimate is taken off the Brier score. Pairs with a single answer are left
            out.

    Returns:
        {"n", "ece", "brier", "curve": [{"low", "high", "n", "forecast", "outcome"}]}, ece and brier with intervals;
        None where no pair is measured.
    """
    j, y = np.array(forecast, dtype=float), np.asarray(outcome, dtype=float)
    if answers is not None:
        j = np.where([one is not None and len(one) > 1 for one in answers], j, np.nan)
    known = ~np.isnan(j) & ~np.isnan(y)
    if not known.any():
        return None
    j, y = j[known], y[known]
    keys = [key for key, kept in zip(problems, known, strict=True) if kept]
    squares = (j - y) ** 2
    if answers is None:
        cells = np.zeros((len(j), bins, 3))
        place = np.minimum((j * bins).astype(int), bins - 1)
        cells[np.arange(len(j)), place] = np.stack([np.ones_like(j), j, y], axis=1)
    else:
        drawn = [np.asarray(one, dtype=float) for one, kept in zip(answers, known, strict=True) if kept and one]
        cells = np.stack([_cross_fitted(one, right, bins) for one, right in zip(drawn, y, strict=True)])
        squares -= np.array([one.var(ddof=1) / len(one) for one in drawn])
    sums = np.concatenate([cells.reshape(len(j), -1), squares[:, None]], axis=1)

    def ece(total: FloatArray) -> FloatArray:
        count, forecasts, outcomes = np.moveaxis(total[..., :-1].reshape(*total.shape[:-1], bins, 3), -1, 0)
        return np.abs(outcomes - forecasts).sum(-1) / count.sum(-1)

    def brier(total: FloatArray) -> FloatArray:
        return total[..., -1] / total[..., :-1].reshape(*total.shape[:-1], bins, 3)[..., 0].sum(-1)

    table = _by_problem(sums, keys)
    found = {"ece": asdict(bootstrap_sums(table, ece)), "brier": asdict(bootstrap_sums(table, brier))}
    return {"n": len(j), **found, "curve": _reliability(cells.sum(0))}


def _reliability(cells: FloatArray) -> list[dict[str, Any]]:
    """The reliability curve from count, sum of forecasts and sum of outcomes of every bin (bins, 3)."""
    bins, curve = len(cells), []
    for b, (count, forecasts, outcomes) in enumerate(cells):
        if count > 0:
            means = {"forecast": forecasts / count, "outcome": outcomes / count}
            curve.append({"low": b / bins, "high": (b + 1) / bins, "n": round(float(count)), **means})
    return curve


def _cross_fitted(rewards: FloatArray, right: float, bins: int) -> FloatArray:
    """(bins, 3) count, forecast and outcome of one J: each answer is a forecast, in the bin of the others' mean.

    Given the others an answer's expectation is J: forecast and outcome agree on average where J is calibrated.
    """
    n = len(rewards)
    others = (rewards.sum() - rewards) / (n - 1)
    place = np.clip((others * bins).astype(int), 0, bins - 1)
    cells = np.zeros((bins, 3))
    np.add.at(cells, place, np.stack([np.ones(n), rewards, np.full(n, right)], axis=1) / n)
    return cells


def boundary_at(ends: Sequence[float], at: float) -> int | None:
    """The last boundary by `at` thinking tokens, whose J holds there as the regret has it."""
    return next((j for j in reversed(range(len(ends))) if ends[j] <= at), None)


def _by_problem(sums: FloatArray, problems: Sequence[Hashable]) -> FloatArray:
    order = {key: i for i, key in enumerate(dict.fromkeys(problems))}
    table = np.zeros((len(order), sums.shape[1]))
    np.add.at(table, [order[key] for key in problems], sums)
    return table


def _share(table: FloatArray, above: int, below: int) -> Interval:
    if not table[:, below].sum():
        return Interval(float("nan"), float("nan"), float("nan"))

    def ratio(total: FloatArray) -> FloatArray:
        lower = total[..., below]
        return np.divide(total[..., above], lower, out=np.full_like(lower, np.nan), where=lower > 0)

    return bootstrap_sums(table, ratio)
