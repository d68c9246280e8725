"""What a budget buys: accuracy versus thinking tokens, and versus the number of samples. Numpy only, pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from fractions import Fraction
from math import comb

import numpy as np
from numpy.typing import ArrayLike

from mrt.metrics.bootstrap import (
    FloatArray,
    Interval,
    Rows,
    mean_by_problem,
    nan_mean,
    percentile_interval,
    seed_and_problem_counts,
)

SAME = 1e-9  # accuracies closer than this differ by rounding alone


def rewards_at_budgets(
    thinking_tokens: ArrayLike,
    own_reward: Rows,
    forced: Rows,
    budgets: ArrayLike,
    truncated: ArrayLike | None = None,
) -> FloatArray:
    """Reward of every sample at every budget: its own answer if the thought ended within it, else the forced one.

    Args:
        thinking_tokens: (S,) length of each thought.
        own_reward: (S,) reward of the answer that the sample gave by itself; None or NaN if unscorable.
        forced: (S, N) reward of the answer forced at each budget, NaN where none was needed or it is unscorable. All
            0 gives the stricter accuracy under a cap, where a thought longer than the budget fails.
        budgets: (N,) thinking tokens, ascending.
        truncated: (S,) thoughts that never ended by themselves: a forced answer counts for them at every budget where
            one was taken, their own reward elsewhere.

    Returns:
        (S, N), NaN where nothing scorable is known.

    Raises:
        ValueError: for budgets out of order, or arrays whose shapes disagree.
    """
    grid = _grid(budgets)
    tokens, own = np.asarray(thinking_tokens, dtype=np.float64), np.asarray(own_reward, dtype=np.float64)
    at_budget = np.asarray(forced, dtype=np.float64)
    if own.shape != tokens.shape or at_budget.shape != (len(tokens), len(grid)):
        raise ValueError(
            f"{tokens.shape} thinking_tokens and {len(grid)} budgets need own_reward of that shape and forced "
            f"{(len(tokens), len(grid))}, got {own.shape} and {at_budget.shape}"
        )
    if np.isnan(tokens).any():
        raise ValueError(f"sample {int(np.argmax(np.isnan(tokens)))}: its number of thinking tokens is NaN")
    by_itself = tokens[:, None] <= grid
    if truncated is not None:
        by_itself &= ~np.asarray(truncated, dtype=bool)[:, None] | np.isnan(at_budget)
    return np.where(by_itself, own[:, None], at_budget)


def accuracy_at_budgets(
    thinking_tokens: ArrayLike,
    own_reward: Rows,
    forced: Rows,
    budgets: ArrayLike,
    *,
    problems: Sequence[Hashable] | None = None,
    truncated: ArrayLike | None = None,
) -> FloatArray:
    """(N,) mean of `rewards_at_budgets` over the scorable samples of a problem, then over problems.

    Without `problems` (S keys) every sample weighs the same. NaN at a budget where no sample is scorable.
    """
    rewards = rewards_at_budgets(thinking_tokens, own_reward, forced, budgets, truncated)
    return nan_mean(rewards if problems is None else mean_by_problem(rewards, problems), axis=0)


def area_under_budget(budgets: ArrayLike, accuracy: ArrayLike) -> FloatArray:
    """Mean accuracy over budgets drawn evenly from [0, C_0], C_0 the last budget: area / C_0.

    Trapezoids, as the curve is known only on a grid; below the first budget its first value is held, so begin at 0.

    Args:
        budgets: (N,) ascending.
        accuracy: (..., N).

    Returns:
        (...).

    Raises:
        ValueError: when the last budget is not positive, shapes disagree, or an accuracy is NaN.
    """
    grid, curve = _grid(budgets), _on(budgets, accuracy, "accuracy")
    if grid[-1] <= 0:
        raise ValueError(f"the last budget is {grid[-1]:g}: it must be positive")
    return (curve[..., 0] * grid[0] + np.trapezoid(curve, grid, axis=-1)) / grid[-1]


def isotonic(values: ArrayLike) -> FloatArray:
    """The non-decreasing sequence nearest in squared error, along the last axis: what pool adjacent violators computes.

    By the min-max formula, max over a <= i of min over b >= i of mean(values[a..b]) (Barlow et al. 1972), which
    needs no loop over the curves. (..., N) to (..., N), with N^2 numbers a curve in between.
    """
    curve = np.asarray(values, dtype=np.float64)
    index = np.arange(curve.shape[-1])
    total = np.cumsum(curve, axis=-1)
    before = total - curve
    length = index[None, :] - index[:, None] + 1
    means = (total[..., None, :] - before[..., :, None]) / np.maximum(length, 1)  # [..., a, b]
    means = np.where(length > 0, means, np.inf)
    least = np.minimum.accumulate(means[..., ::-1], axis=-1)[..., ::-1]
    return np.where(length > 0, least, -np.inf).max(axis=-2)


def tokens_at_equal_accuracy(budgets: ArrayLike, baseline: ArrayLike, ours: ArrayLike) -> float:
    """How many times the tokens the baseline needs for the same accuracy: b_baseline(level) / b_ours(level).

    Both curves are made non-decreasing (`isotonic`); level is the lower of their two accuracies at the full budget, so
    both reach it; b(level) is the smallest budget that does, linear between grid points. A level that a curve has from
    the first budget on costs that budget: where it is 0 tokens for both, the ratio is 1, for ours only infinity, for
    the baseline only 0.

    Args:
        budgets: (N,) thinking tokens, ascending.
        baseline, ours: (N,) accuracies.

    Raises:
        ValueError: when shapes disagree or an accuracy is NaN.
    """
    return float(_token_ratio(_grid(budgets), _on(budgets, baseline, "baseline"), _on(budgets, ours, "ours")))


def tokens_at_equal_accuracy_interval(
    baseline: ArrayLike, ours: ArrayLike, budgets: ArrayLike, *, n_boot: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """`tokens_at_equal_accuracy` of the mean curves; paired bootstrap over seeds, then over problems within each.

    Args:
        baseline, ours: (seeds, problems, N) accuracy of a problem at a budget, or (problems, N) for one seed. Cell by
            cell the same seed and problem in both arms; a cell that is NaN in one arm is left out of both.
        budgets: (N,) thinking tokens, ascending.
        level: coverage of the interval.

    Returns:
        Interval whose `mean` is the ratio on the data at hand; bounds may be infinite.

    Raises:
        ValueError: when shapes disagree, or at some budget no cell is measured in both arms.
    """
    grid = _grid(budgets)
    arms = [np.asarray(arm, dtype=np.float64) for arm in (baseline, ours)]
    arms = [arm[None] if arm.ndim == 2 else arm for arm in arms]
    if arms[0].shape != arms[1].shape or arms[0].ndim != 3 or arms[0].shape[-1] != len(grid):
        raise ValueError(
            f"baseline {arms[0].shape} and ours {arms[1].shape} must both be (seeds, problems, {len(grid)} budgets)"
        )
    seeds, problems, n = arms[0].shape
    cells = [arm.reshape(seeds * problems, n) for arm in arms]
    both = ~np.isnan(cells[0]) & ~np.isnan(cells[1])
    if not both.any(axis=0).all():
        raise ValueError(f"no problem is scored in both arms at budget {grid[np.argmin(both.any(axis=0))]:g}")
    sums = [np.where(both, cell, 0.0) for cell in cells]

    def ratio(counts: FloatArray) -> FloatArray:
        weight = counts @ both
        drawn = weight > 0
        first, second = (np.divide(counts @ s, weight, out=np.full_like(weight, np.nan), where=drawn) for s in sums)
        return _token_ratio(grid, first, second)

    point = float(ratio(np.ones((1, seeds * problems)))[0])
    blocks = seed_and_problem_counts(seeds, problems, n_boot, seed, width=n * n)
    return percentile_interval(point, np.concatenate([ratio(block) for block in blocks]), level, units=seeds * problems)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that k samples drawn without replacement from n, c of them correct, hold a correct one.

    1 - C(n - c, k) / C(n, k), the unbiased estimate of Chen et al. 2021 (arXiv 2107.03374, equation 1), in integers.

    Raises:
        ValueError: for n < k, k < 1, or c outside 0..n.
    """
    n, c, k = int(n), int(c), int(k)
    _check_draw(n, k)
    if not 0 <= c <= n:
        raise ValueError(f"c = {c} correct of n = {n} samples")
    return 1 - comb(n - c, k) / comb(n, k)


def maj_at_k(answers: Sequence[Hashable | None], correct: Sequence[float | bool | None], k: int) -> float:
    """Chance that the majority vote of k samples drawn without replacement from n is correct. Exact, no Monte Carlo.

    Ties are broken uniformly at random among the most frequent answers drawn. A None answer (unparsed) takes its place
    among the k but votes for nothing: it never wins, and where all are None the vote is wrong. A sample whose `correct`
    is None or NaN (unscorable) is left out of n. Answers are compared as they are: bring them to one form first.

    Counting: for each number of votes `top`, answers that cannot reach it fill up freely; the others are added one by
    one while the ways are tabulated by (answers that have exactly `top`, samples drawn).

    Raises:
        ValueError: for n < k, k < 1, lengths that differ, or one answer marked both correct and wrong.
    """
    if len(answers) != len(correct):
        raise ValueError(f"{len(answers)} answers but {len(correct)} verdicts")
    votes: Counter[Hashable] = Counter()
    right: dict[Hashable, bool] = {}
    blank = 0
    for answer, verdict in zip(answers, correct, strict=True):
        if verdict is None or verdict != verdict:
            continue
        if verdict not in (0, 1):
            raise ValueError(f"answer {answer!r}: correct must be 0, 1 or None, got {verdict!r}")
        if answer is None:
            blank += 1
            continue
        votes[answer] += 1
        if right.setdefault(answer, bool(verdict)) != bool(verdict):
            raise ValueError(f"answer {answer!r} is marked both correct and wrong")
    n, k = blank + votes.total(), int(k)
    _check_draw(n, k)
    won = Fraction(0)
    for top in range(1, min(k, max(votes.values(), default=0)) + 1):
        won += _won_with(top, k, blank, [(count, right[answer]) for answer, count in votes.items()])
    return float(won / comb(n, k))


def _won_with(top: int, k: int, blank: int, answers: list[tuple[int, bool]]) -> Fraction:
    """Number of k-subsets, weighted by the chance that a correct answer wins them with `top` votes."""
    free = blank + sum(count for count, _ in answers if count < top)
    limit = k // top
    # ways[t][v]: how often v samples hold t answers of exactly `top` votes; hits: that times the correct ones of the t.
    ways = [[comb(free, v) for v in range(k + 1)]] + [[0] * (k + 1) for _ in range(limit)]
    hits = [[0] * (k + 1) for _ in range(limit + 1)]
    for count, good in answers:
        if count < top:
            continue
        more_ways = [[0] * (k + 1) for _ in range(limit + 1)]
        more_hits = [[0] * (k + 1) for _ in range(limit + 1)]
        for taken in range(top + 1):
            tied, choose = int(taken == top), comb(count, taken)
            for t in range(limit + 1 - tied):
                for v in range(k + 1 - taken):
                    more_ways[t + tied][v + taken] += choose * ways[t][v]
                    more_hits[t + tied][v + taken] += choose * (hits[t][v] + tied * good * ways[t][v])
        ways, hits = more_ways, more_hits
    return sum((Fraction(hits[t][k], t) for t in range(1, limit + 1)), Fraction(0))


def _token_ratio(grid: FloatArray, baseline: FloatArray, ours: FloatArray) -> FloatArray:
    """(..., N) curves to (...) ratios, NaN where a curve holds NaN."""
    first, second = isotonic(baseline), isotonic(ours)
    level = np.minimum(first[..., -1:], second[..., -1:])
    spent, needed = _budget_for(grid, first, level), _budget_for(grid, second, level)
    ratio = np.divide(spent, needed, out=np.where(spent > 0, np.inf, 1.0), where=needed > 0)
    return np.where(np.isnan(level[..., 0]), np.nan, ratio)


def _budget_for(grid: FloatArray, curve: FloatArray, level: FloatArray) -> FloatArray:
    """The smallest budget at which a non-decreasing curve (..., N) reaches `level` (..., 1)."""
    at = np.argmax(curve >= level - SAME, axis=-1)[..., None]
    before = np.maximum(at - 1, 0)
    low, high = np.take_along_axis(curve, before, axis=-1), np.take_along_axis(curve, at, axis=-1)
    share = np.divide(level - low, high - low, out=np.ones_like(level), where=high > low)
    return (grid[before] + np.minimum(share, 1.0) * (grid[at] - grid[before]))[..., 0]


def _grid(budgets: ArrayLike) -> FloatArray:
    grid = np.asarray(budgets, dtype=np.float64)
    if grid.ndim != 1 or grid.size == 0 or not np.isfinite(grid).all() or grid[0] < 0 or (np.diff(grid) <= 0).any():
        raise ValueError(f"budgets must be a list of ascending numbers of tokens, none negative, got {grid.tolist()}")
    return grid


def _on(budgets: ArrayLike, values: ArrayLike, name: str) -> FloatArray:
    """The values as an array, if they fit the budgets and are all measured."""
    grid, curve = _grid(budgets), np.asarray(values, dtype=np.float64)
    if curve.ndim == 0 or curve.shape[-1] != len(grid):
        raise ValueError(f"{name} has shape {curve.shape}, but there are {len(grid)} budgets")
    if np.isnan(curve).any():
        raise ValueError(
            f"{name} is NaN at budget {grid[np.argwhere(np.isnan(curve))[0][-1]]:g}: nothing was scored there"
        )
    return curve


def _check_draw(n: int, k: int) -> None:
    if k < 1 or n < k:
        raise ValueError(f"k = {k} of n = {n} scored samples cannot be drawn: sample more, or choose a smaller k")
