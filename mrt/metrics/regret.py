"""What is measured of a trial, for tokens and for actions alike. Numpy only, pure functions.

A curve is given by its points: x, thinking tokens spent (0 for J_0, then the end of every episode), and J, the chance
that the answer is right if thinking stops there. NaN means "not measured", never zero. B curves, N points, K episodes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike

# One door for whoever measures: the statistics over budgets, samples and problems are reached from here too.
from mrt.metrics.bootstrap import FloatArray, Rows, mean_by_problem, nan_mean, pad_rows
from mrt.metrics.bootstrap import Interval as Interval
from mrt.metrics.bootstrap import bootstrap as bootstrap
from mrt.metrics.bootstrap import bootstrap_over_seeds as bootstrap_over_seeds
from mrt.metrics.bootstrap import interquartile_mean as interquartile_mean
from mrt.metrics.bootstrap import paired_bootstrap as paired_bootstrap
from mrt.metrics.budgets import accuracy_at_budgets as accuracy_at_budgets
from mrt.metrics.budgets import area_under_budget as area_under_budget
from mrt.metrics.budgets import maj_at_k as maj_at_k
from mrt.metrics.budgets import pass_at_k as pass_at_k
from mrt.metrics.budgets import rewards_at_budgets as rewards_at_budgets
from mrt.metrics.budgets import tokens_at_equal_accuracy as tokens_at_equal_accuracy
from mrt.metrics.budgets import tokens_at_equal_accuracy_interval as tokens_at_equal_accuracy_interval

Interpolation = Literal["step", "paper"]
Curve = tuple[ArrayLike, ArrayLike]  # (x, J), N points each
SLACK = 1e-6  # rounding that float32 values of J are allowed


class AdaptationCurve(NamedTuple):
    """One entry an episode: mean, standard error of the mean (NaN below two rows), rows measured."""

    mean: FloatArray
    se: FloatArray
    n: FloatArray


def normalised_regret(
    x: ArrayLike, j: ArrayLike, budget: float, oracle: float | Curve = 1.0, interpolation: Interpolation = "step"
) -> float:
    """Share of the oracle's area over [0, budget] that one curve leaves out: area(J* - J) / area(J*), in [0, 1].

    With oracle 1 it is 1 - area(J) / C_0 (Qu et al. 2025, arXiv 2503.07572, figure 9).

    Args:
        x: (N,) thinking tokens, ascending. The first point is J_0 at 0; of points at the same x the last one counts.
        j: (N,) in [0, 1]; unmeasured points (NaN) are skipped, so that the curve goes on from the last measured one.
        budget: C_0 in thinking tokens. Points at or beyond it have no area.
        oracle: J*: a constant, or a curve (x*, J*) under the same rules, such as `best_observed` or an exact one.
        interpolation: "step" holds J_j from boundary j to the next one, and after the last. "paper" draws the authors'
            trapezoids: from (0, 0) where the first point lies beyond 0, straight between points, cut at C_0 on the line
            to the next point, flat after the last; x must ascend strictly.

    Returns:
        The regret; NaN when J_0 was not measured (nothing tells what the curve begins with); 0 for an oracle that is 0.

    Raises:
        ValueError: naming the point, for x that is negative, descending, or does not begin at 0; J outside [0, 1]; a
            budget that is not positive; or an oracle below the curve, since a regret against it would be no regret.
    """
    return float(trace_regrets([x], [j], budget, oracle, interpolation)[0])


def trace_regrets(
    x: Rows, j: Rows, budget: float, oracle: float | Curve = 1.0, interpolation: Interpolation = "step"
) -> FloatArray:
    """`normalised_regret` of B curves: x and j are (B, N) padded with NaN, or B rows of unequal length. Returns (B,).

    An oracle curve is shared, (M,) and (M,), or one a row, (B, M) and (B, M).
    """
    if not (math.isfinite(budget) and budget > 0):
        raise ValueError(f"budget = {budget}: the token budget must be positive")
    points = _curves(pad_rows(x), pad_rows(j), interpolation, "curve")
    star_x, star_j = oracle if isinstance(oracle, tuple) else ([0.0], [oracle])
    best_x, best_j = _curves(_table(star_x), _table(star_j), interpolation, "oracle")
    best = (
        np.broadcast_to(best_x, (len(points[0]), best_x.shape[1])),
        np.broadcast_to(best_j, (len(points[0]), best_j.shape[1])),
    )
    area, best_area = _area(*points, budget, interpolation), _area(*best, budget, interpolation)
    # Between breakpoints both curves are constant, or straight: it is enough to look there.
    at = np.concatenate([points[0], best[0]], axis=1)
    at = np.minimum(at, budget) if interpolation == "paper" else np.where(at < budget, at, 0.0)
    short = _value(*points, at, interpolation) - _value(*best, at, interpolation) > SLACK
    if short.any():
        row, point = np.argwhere(short)[0]
        raise ValueError(
            f"the oracle lies below curve {row} at {at[row, point]:g} tokens, so there is no regret against it; "
            "pass best_observed([...]) with this curve included"
        )
    ratio = np.divide(area, best_area, out=np.where(np.isnan(area), np.nan, 1.0), where=best_area != 0)
    return np.clip(1.0 - ratio, 0.0, 1.0)  # the checks above leave only rounding to clip


def mean_normalised_regret(
    x: Rows,
    j: Rows,
    problems: Sequence[Hashable],
    budget: float,
    *,
    oracle: float | Curve = 1.0,
    interpolation: Interpolation = "step",
) -> float:
    """Mean of `trace_regrets` over the traces of a problem, then over problems; `problems` holds B keys."""
    return float(nan_mean(mean_by_problem(trace_regrets(x, j, budget, oracle, interpolation), problems)))


def mean_curve(x: Rows, j: Rows, problems: Sequence[Hashable]) -> tuple[FloatArray, FloatArray]:
    """Mean of B step curves, over the traces of a problem and then over problems: one curve over the union of the x.

    This is what `best_observed` compares across models. Traces whose J_0 was not measured are left out.
    """
    points, values = _curves(pad_rows(x), pad_rows(j), "step", "curve")
    known = ~np.isnan(values[:, 0])
    keys = [key for key, kept in zip(problems, known, strict=True) if kept]
    size = Counter(keys)
    weight = np.array([1 / (len(size) * size[key]) for key in keys])
    jumps = np.diff(values[known], axis=1, prepend=0.0) * weight[:, None]
    at, place = np.unique(points[known], return_inverse=True)
    return at, np.cumsum(np.bincount(place.ravel(), weights=jumps.ravel(), minlength=len(at)))


@overload
def best_observed(curves: Sequence[Curve]) -> tuple[FloatArray, FloatArray]: ...
@overload
def best_observed(curves: Sequence[FloatArray]) -> FloatArray: ...
def best_observed(curves: Sequence[Curve] | Sequence[FloatArray]) -> tuple[FloatArray, FloatArray] | FloatArray:
    """The comparator J*: the best that any of the models compared had reached by then, the one judged included.

    It never falls, because whoever may go on may also stop earlier.

    Args:
        curves: step curves as tuples (x, J); or arrays (..., K+1), one a model, K may differ.

    Returns:
        A step curve over the union of the x; or an array (..., largest K + 1). NaN before anything is measured.

    Raises:
        ValueError: without a curve, or for arrays whose leading axes differ.
    """
    if not len(curves):
        raise ValueError("best_observed needs at least one curve")
    if isinstance(curves[0], tuple):
        lines = [_curves(pad_rows([x]), pad_rows([j]), "step", "curve") for x, j in curves]
        at = np.unique(np.concatenate([x[0] for x, _ in lines]))
        values = np.array([_value(x, j, at[None], "step")[0] for x, j in lines])
        return at, np.fmax.accumulate(np.fmax.reduce(values, axis=0))
    arrays = [np.asarray(curve, dtype=np.float64) for curve in curves]
    longest = max(array.shape[-1] for array in arrays)
    wide = [np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, longest - a.shape[-1])], constant_values=np.nan) for a in arrays]
    if len({array.shape for array in wide}) > 1:
        raise ValueError(f"the models' values must agree in all axes but the last: {[a.shape for a in arrays]}")
    return np.fmax.accumulate(np.fmax.reduce(np.stack(wide), axis=0), axis=-1)


def cumulative_regret(values: ArrayLike, oracle: ArrayLike, first: int = 1) -> FloatArray:
    """sum over j = 1..K of J*_j - J_j (Qu et al. 2025, definition 4.1, counted after each episode).

    Args:
        values: (..., K+1) J_0..J_K, NaN where unmeasured or padded: such an episode adds nothing.
        oracle: J*, a number or an array that broadcasts against `values`; its last axis may be longer.
        first: the first column that counts: 1 leaves J_0 out; 0 is for episode returns, which have no such column.

    Returns:
        (...), NaN for a row without a measured episode.

    Raises:
        ValueError: when the oracle is too short, or NaN where a value was measured.
    """
    return _shortfall(np.asarray(values, dtype=np.float64), oracle, None, first)


def relative_regret(values: ArrayLike, oracle: ArrayLike, floor: ArrayLike, first: int = 1) -> FloatArray:
    """sum_j (J*_j - J_j) / sum_j (J*_j - floor_j): 0 plays as the oracle, 1 as the floor (a random policy), row by row.

    For stop values and for episode returns; arguments as in `cumulative_regret`, `floor` in the form of `oracle`.
    Neither bound holds by force: worse than random is above 1, luckier than the oracle is below 0.

    Returns:
        (...), NaN for a row without a measured episode, or where oracle and floor are equal.

    Raises:
        ValueError: as in `cumulative_regret`, and when the floor lies above the oracle.
    """
    table = np.asarray(values, dtype=np.float64)
    lost, span = _shortfall(table, oracle, None, first), _shortfall(table, oracle, floor, first)
    if (span < 0).any():
        raise ValueError(f"row {int(np.argmax(np.ravel(span) < 0))}: the floor lies above the oracle")
    return np.divide(lost, span, out=np.full_like(lost, np.nan), where=span > 0)


def adaptation_curve(values: ArrayLike) -> AdaptationCurve:
    """Mean over B trials of what was measured after (or in) each episode.

    Args:
        values: (B, K+1) stop values or (B, K) episode returns, NaN where unmeasured or padded.

    Returns:
        (K+1,) or (K,) each: mean (NaN where nothing was measured), standard error std(ddof=1) / sqrt(n), n.
    """
    table = np.asarray(values, dtype=np.float64)
    n = (~np.isnan(table)).sum(axis=0).astype(np.float64)
    average = nan_mean(table, axis=0)
    squares = np.nansum((table - average) ** 2, axis=0)
    variance = np.divide(squares, n - 1, out=np.full_like(average, np.nan), where=n > 1)
    return AdaptationCurve(average, np.sqrt(variance / np.maximum(n, 1)), n)


def progress(stop_values: ArrayLike) -> FloatArray:
    """p_j = J_j - J_(j-1) (Qu et al. 2025, definition 6.1), (..., K); NaN where either side is unmeasured."""
    return np.diff(np.asarray(stop_values, dtype=np.float64), axis=-1)


def _table(values: ArrayLike) -> FloatArray:
    return np.atleast_2d(np.asarray(values, dtype=np.float64))


def _curves(x: FloatArray, j: FloatArray, interpolation: Interpolation, name: str) -> tuple[FloatArray, FloatArray]:
    """Checked (B, N) points that begin at 0; an unmeasured point becomes a copy of the measured one before it."""
    if interpolation not in ("step", "paper"):
        raise ValueError(f"interpolation = {interpolation!r}: valid are 'step' and 'paper'")
    if x.shape != j.shape or x.shape[1] == 0:
        raise ValueError(f"{name}: x and J need the same points, at least one each, got {x.shape} and {j.shape}")
    before = np.fmax.accumulate(x, axis=1)[:, :-1]
    falls = np.zeros(x.shape, dtype=bool)
    falls[:, 1:] = x[:, 1:] < before if interpolation == "step" else x[:, 1:] <= before
    late = np.zeros(x.shape, dtype=bool)
    late[:, 0] = (x[:, 0] > 0) & (interpolation == "step")
    problems = {
        "J is outside [0, 1]": (j < -SLACK) | (j > 1 + SLACK) | np.isinf(j),
        "x is negative or infinite": (x < 0) | np.isinf(x),
        "J is measured but x is NaN": np.isnan(x) & ~np.isnan(j),
        "x does not ascend": falls,
        "the first point must be J_0 at x = 0 (give J_0 as NaN if it was not measured)": late,
    }
    for what, where in problems.items():
        if where.any():
            row, point = np.argwhere(where)[0]
            raise ValueError(f"{name} {row}, point {point}, x = {x[row, point]:g}, J = {j[row, point]:g}: {what}")
    source = np.maximum.accumulate(np.where(np.isnan(j), 0, np.arange(x.shape[1])), axis=1)
    x, j = np.take_along_axis(x, source, axis=1), np.clip(np.take_along_axis(j, source, axis=1), 0.0, 1.0)
    if interpolation == "paper":
        x, j = np.insert(x, 0, 0.0, axis=1), np.insert(j, 0, np.where(x[:, 0] > 0, 0.0, j[:, 0]), axis=1)
    return x, j


def _slopes(x: FloatArray, j: FloatArray, interpolation: Interpolation) -> FloatArray:
    """(B, N) slope from each point to the next: 0 after the last, and everywhere for steps."""
    slopes = np.zeros_like(j)
    if interpolation == "paper":
        gap = np.diff(x, axis=1)
        np.divide(np.diff(j, axis=1), gap, out=slopes[:, :-1], where=gap > 0)
    return slopes


def _area(x: FloatArray, j: FloatArray, budget: float, interpolation: Interpolation) -> FloatArray:
    """(B,) area over [0, budget], divided by the budget."""
    ends = np.insert(np.minimum(x, budget), x.shape[1], budget, axis=1)
    width = np.diff(ends, axis=1)
    return ((j + 0.5 * _slopes(x, j, interpolation) * width) * width).sum(axis=1) / budget


def _value(x: FloatArray, j: FloatArray, at: FloatArray, interpolation: Interpolation) -> FloatArray:
    """(B, Q) values of the curves at the positions `at` (B, Q)."""
    index = (x[:, None, :] <= at[:, :, None]).sum(axis=-1) - 1
    start, value, slope = (np.take_along_axis(part, index, axis=1) for part in (x, j, _slopes(x, j, interpolation)))
    return value + slope * (at - start)


def _shortfall(table: FloatArray, oracle: ArrayLike, floor: ArrayLike | None, first: int) -> FloatArray:
    """Sum of J* - J, or of J* - floor, over the columns from `first` on where J was measured."""
    part = table[..., first:]
    measured = ~np.isnan(part)

    def reference(values: ArrayLike, name: str) -> FloatArray:
        array = np.asarray(values, dtype=np.float64)
        if array.ndim and array.shape[-1] != 1:
            if array.shape[-1] < table.shape[-1]:
                raise ValueError(f"the {name} has {array.shape[-1]} columns, the values have {table.shape[-1]}")
            array = array[..., first : table.shape[-1]]
        array = np.broadcast_to(array, part.shape)
        if (np.isnan(array) & measured).any():
            raise ValueError(f"the {name} is NaN where a value was measured")
        return array

    lower = part if floor is None else reference(floor, "floor")
    total = np.where(measured, reference(oracle, "oracle") - lower, 0.0).sum(axis=-1)
    return np.where(measured.any(axis=-1), total, np.nan)
