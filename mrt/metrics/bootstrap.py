"""How far a number could have come out differently with other problems, samples or seeds. Numpy only, pure functions.

The problem is the unit that is drawn: samples of one problem share its difficulty, so a bootstrap over single samples
would report an interval that is too narrow. Draws come from a local generator: the same seed gives the same interval.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Rows = ArrayLike | Sequence[float | None] | Sequence[Sequence[float | None]] | Sequence[ArrayLike]
Statistic = Callable[[FloatArray], FloatArray]

SLACK = 1e-9  # of a product that should be whole
CHUNK = 1 << 21  # numbers drawn at once: about 16 MiB, whatever the number of resamples


@dataclass(frozen=True)
class Interval:
    """A statistic of the data at hand (`mean`, whichever statistic it is) and the bounds of its bootstrap interval.

    The bounds are NaN where there is nothing to resample (one problem, one seed).
    """

    mean: float
    low: float
    high: float


def pad_rows(rows: Rows) -> FloatArray:
    """(B, N) float64 from an array, or from B rows of unequal length; None and missing places become NaN.

    A flat sequence of B numbers gives (B, 1).
    """
    if isinstance(rows, np.ndarray) and rows.ndim == 2:
        return rows.astype(np.float64)
    lists = [np.atleast_1d(np.asarray(row, dtype=np.float64)) for row in rows]  # type: ignore[union-attr]
    table = np.full((len(lists), max((len(row) for row in lists), default=0)), np.nan)
    for line, row in zip(table, lists, strict=True):
        line[: len(row)] = row
    return table


def mean(values: FloatArray) -> FloatArray:
    """Mean over the last axis: the default statistic."""
    return values.mean(axis=-1)


def nan_mean(values: FloatArray, axis: int = -1) -> FloatArray:
    """Mean of what is measured along `axis`; NaN, without a warning, where nothing is."""
    measured = ~np.isnan(values)
    count = measured.sum(axis=axis)
    total = np.where(measured, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def mean_by_problem(values: Rows, problems: Sequence[Hashable]) -> FloatArray:
    """Mean over the samples of each problem, unscorable ones (None, NaN) left out.

    Args:
        values: (B, ...), one entry or one curve a sample.
        problems: B keys. The result follows the order in which they first appear.

    Returns:
        (P, ...), NaN where no sample of a problem could be scored.

    Raises:
        ValueError: when there are not as many keys as samples.
    """
    table = np.asarray(values, dtype=np.float64)
    if len(problems) != len(table):
        raise ValueError(f"{len(table)} samples but {len(problems)} problem keys")
    rows: dict[Hashable, list[int]] = {}
    for row, key in enumerate(problems):
        rows.setdefault(key, []).append(row)
    return np.array([nan_mean(table[members], axis=0) for members in rows.values()])


def interquartile_mean(values: ArrayLike) -> FloatArray:
    """Mean over the last axis, floor(n / 4) values cut at either end (Agarwal et al. 2021, arXiv 2108.13264).

    Raises:
        ValueError: on an empty axis, or on NaN, which sorting would move silently among the values cut.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=-1)
    n = ordered.shape[-1]
    if n == 0 or np.isnan(ordered).any():
        raise ValueError("the interquartile mean needs measured values: drop NaN first, and give at least one number")
    return ordered[..., n // 4 : n - n // 4].mean(axis=-1)


def bootstrap(
    values_by_problem: Rows, statistic: Statistic = mean, n_boot: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Percentile interval, problems resampled with replacement and the samples of a problem kept together.

    The score of a problem is the mean over its scorable samples, so a problem with more samples weighs no more. With
    fewer than about 30 problems a percentile interval is somewhat too narrow; where all score the same it has no width.

    Args:
        values_by_problem: (P, S), or P rows of unequal length, or P numbers; None and NaN are left out, and so is a
            problem that has nothing else.
        statistic: maps scores (..., P) to (...), for instance `mean` or `interquartile_mean`.

    Raises:
        ValueError: when nothing could be scored, or for a level outside (0, 1).
    """
    scores = nan_mean(pad_rows(values_by_problem))
    scores = scores[~np.isnan(scores)]
    if scores.size == 0:
        raise ValueError("no scorable sample in any problem")
    replicates = [statistic(scores[drawn]) for drawn in _draws(scores.size, n_boot, seed)]
    return percentile_interval(float(statistic(scores)), np.concatenate(replicates), level, units=scores.size)


def paired_bootstrap(
    a: Rows, b: Rows, statistic: Statistic = mean, *, n_boot: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Interval of statistic(a) - statistic(b): both arms are given the same problems in every resample.

    Row p of `a` and of `b` is one problem; their numbers of samples may differ. A problem that could not be scored in
    one arm is left out of both.

    Raises:
        ValueError: when the numbers of problems differ, or no problem is scored in both arms.
    """
    first, second = nan_mean(pad_rows(a)), nan_mean(pad_rows(b))
    if len(first) != len(second):
        raise ValueError(f"paired arms need the same problems: {len(first)} in a, {len(second)} in b")
    both = ~np.isnan(first) & ~np.isnan(second)
    if not both.any():
        raise ValueError("no problem has a scorable sample in both arms")
    first, second = first[both], second[both]
    replicates = [statistic(first[drawn]) - statistic(second[drawn]) for drawn in _draws(first.size, n_boot, seed)]
    point = float(statistic(first) - statistic(second))
    return percentile_interval(point, np.concatenate(replicates), level, units=first.size)


def bootstrap_sums(
    sums: ArrayLike, statistic: Statistic, n_boot: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Interval of a statistic of sums over problems (a ratio, a calibration error): problems are resampled whole.

    Args:
        sums: (P, ...) what each problem adds.
        statistic: maps totals (..., *) to (...); NaN replicates are left out.

    Raises:
        ValueError: without a problem, or for a level outside (0, 1).
    """
    table = np.asarray(sums, dtype=np.float64)
    if len(table) == 0:
        raise ValueError("no problem to resample")
    flat = table.reshape(len(table), -1)
    replicates = []
    for counts in seed_and_problem_counts(1, len(table), n_boot, seed, width=flat.shape[1]):
        replicates.append(statistic((counts @ flat).reshape(len(counts), *table.shape[1:])))
    point = float(statistic(table.sum(axis=0)))
    return percentile_interval(point, np.concatenate(replicates), level, units=len(table))


def seed_and_problem_counts(seeds: int, problems: int, n_boot: int, seed: int, width: int = 1) -> Iterator[FloatArray]:
    """How often each (seed, problem) is drawn: seeds with replacement, then problems anew within every seed drawn.

    Yields:
        (n, seeds * problems) blocks, n_boot rows in all, each row summing to seeds * problems. Blocks are small enough
        for a caller that needs `width` numbers a row.
    """
    rng = np.random.default_rng(seed)
    cells = seeds * problems
    for n in _chunks(n_boot, max(cells, width)):
        row = rng.integers(seeds, size=(n, seeds, 1))
        cell = row * problems + rng.integers(problems, size=(n, seeds, problems))
        offset = np.arange(n).reshape(n, 1, 1) * cells
        yield np.bincount((cell + offset).ravel(), minlength=n * cells).reshape(n, cells).astype(np.float64)


def bootstrap_over_seeds(
    arms: Sequence[ArrayLike],
    statistic: Callable[..., FloatArray],
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval of a statistic of the arms' means: seeds are resampled, then problems within each, alike in all arms.

    Args:
        arms: each (seeds, problems), cell by cell the same seed and problem; a cell that is NaN in one arm is left out
            of all.
        statistic: maps the means of the arms, (n,) each, to (n,): a difference, a ratio.

    Raises:
        ValueError: for arms of different shapes, or when no cell was scored in all of them.
    """
    values = [np.asarray(arm, dtype=np.float64) for arm in arms]
    if len({value.shape for value in values}) != 1 or values[0].ndim != 2:
        raise ValueError(f"arms need one shape (seeds, problems), got {[value.shape for value in values]}")
    known = ~np.isnan(np.stack(values)).any(0)
    if not known.any():
        raise ValueError("no problem has a scorable sample in all arms")
    kept = known.ravel().astype(np.float64)
    flat = [np.where(known, value, 0.0).ravel() for value in values]
    replicates = []
    seeds, problems = values[0].shape
    for counts in seed_and_problem_counts(seeds, problems, n_boot, seed):
        total = counts @ kept
        replicates.append(statistic(*(np.divide(counts @ arm, total) for arm in flat)))
    point = float(statistic(*(np.array([arm.sum() / kept.sum()]) for arm in flat))[0])
    return percentile_interval(point, np.concatenate(replicates), level, units=int(kept.sum()))


def percentile_interval(point: float, replicates: FloatArray, level: float, units: int) -> Interval:
    """Bounds that are order statistics of the replicates, so infinite ones are allowed; NaN ones are left out.

    Raises:
        ValueError: for a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level = {level} is not a probability between 0 and 1")
    kept = replicates[~np.isnan(replicates)]
    if units < 2 or kept.size == 0:
        return Interval(point, float("nan"), float("nan"))
    kept.sort()
    rank = max(1, int((1 - level) / 2 * (kept.size + 1) + SLACK))  # the same from below and from above
    return Interval(point, float(kept[rank - 1]), float(kept[-rank]))


def _draws(problems: int, n_boot: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """(n, problems) indices with replacement, n_boot rows in all."""
    rng = np.random.default_rng(seed)
    for n in _chunks(n_boot, problems):
        yield rng.integers(problems, size=(n, problems))


def _chunks(n_boot: int, width: int) -> Iterator[int]:
    if n_boot < 1:
        raise ValueError(f"n_boot = {n_boot}: at least one resample is needed")
    size = max(1, CHUNK // width)
    for start in range(0, n_boot, size):
        yield min(size, n_boot - start)
