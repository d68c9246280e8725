"""Regret and what is measured along the episodes of a trial: hand-computed, in exact fractions, and by property."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt.metrics.regret import (
    adaptation_curve,
    best_observed,
    cumulative_regret,
    mean_curve,
    mean_normalised_regret,
    normalised_regret,
    progress,
    relative_regret,
    trace_regrets,
)

NAN = float("nan")
GAPS = st.integers(1, 9)
EIGHTHS = st.integers(0, 8).map(lambda n: Fraction(n, 8))


@st.composite
def curves(draw, gaps=GAPS, values=EIGHTHS):
    """A step curve with whole numbers of tokens and values in eighths, so that references can be exact."""
    steps = draw(st.lists(gaps, max_size=7))
    x = [0]
    for gap in steps:
        x.append(x[-1] + gap)
    return x, [draw(values) for _ in x]


def step_value(x, j, t):
    return [value for at, value in zip(x, j, strict=True) if at <= t][-1]


def step_area(x, j, budget):
    """Token by token: exact for whole numbers of tokens."""
    return sum((Fraction(step_value(x, j, t)) for t in range(budget)), Fraction(0))


def paper_regret(x, j, budget):
    """The rule of the authors' notebook, one curve: from (0, 0), trapezoids, flat to C_0 or interpolated there."""
    points = [(Fraction(0), Fraction(0)), *((Fraction(a), Fraction(b)) for a, b in zip(x, j, strict=True))]
    kept = [point for point in points if point[0] <= budget]
    later = [point for point in points if point[0] > budget]
    last = kept[-1]
    slope = (later[0][1] - last[1]) / (later[0][0] - last[0]) if later else 0
    kept.append((Fraction(budget), last[1] + slope * (budget - last[0])))
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(kept))
    return 1 - area / budget


# ---- normalised regret


@pytest.mark.parametrize("interpolation", ["step", "paper"])
def test_constant_curves(interpolation):
    assert normalised_regret([0, 3, 7], [1, 1, 1], 10, interpolation=interpolation) == 0.0
    assert normalised_regret([0, 3, 7], [0, 0, 0], 10, interpolation=interpolation) == 1.0
    assert normalised_regret([0], [0.25], 10, interpolation=interpolation) == 0.75


def test_a_step_at_half_the_budget_is_one_half():
    assert normalised_regret([0, 512], [0, 1], 1024) == 0.5


def test_step_by_hand():
    # 0.25 for 2 tokens, 0.5 for 3, 0.75 for the remaining 5: area 0.5 + 1.5 + 3.75 = 5.75 of 10.
    assert normalised_regret([0, 2, 5], [0.25, 0.5, 0.75], 10) == pytest.approx(0.425, abs=1e-15)
    # A budget of 4 sees 0.25 * 2 + 0.5 * 2 = 1.5 of 4.
    assert normalised_regret([0, 2, 5], [0.25, 0.5, 0.75], 4) == pytest.approx(0.625, abs=1e-15)


def test_paper_by_hand():
    # From 0.2 at 0 straight to 0.6 at 4, flat to 10: 1.6 + 3.6 = 5.2 of 10.
    assert normalised_regret([0, 4], [0.2, 0.6], 10, interpolation="paper") == pytest.approx(0.48, abs=1e-15)
    # Cut at 2, where the line stands at 0.4: area 0.6 of 2.
    assert normalised_regret([0, 4], [0.2, 0.6], 2, interpolation="paper") == pytest.approx(0.7, abs=1e-15)
    # The authors' own axis begins beyond 0 (prompt and answer tokens) and their curve at (0, 0): 1 + 3 = 4 of 5.
    assert normalised_regret([2], [1], 5, interpolation="paper") == pytest.approx(0.2, abs=1e-15)


@given(curves(), st.integers(1, 40))
def test_step_equals_the_sum_over_single_tokens(curve, budget):
    x, j = curve
    expected = 1 - step_area(x, j, budget) / budget
    assert normalised_regret(x, [float(v) for v in j], budget) == pytest.approx(float(expected), abs=1e-12)


@given(curves(), st.integers(1, 40), st.integers(0, 5))
def test_paper_equals_the_notebook_rule_in_fractions(curve, budget, shift):
    x, j = [at + shift for at in curve[0]], curve[1]
    got = normalised_regret(x, [float(v) for v in j], budget, interpolation="paper")
    assert got == pytest.approx(float(paper_regret(x, j, budget)), abs=1e-12)


@given(curves(), curves(), st.integers(1, 40))
def test_against_the_best_observed_equals_the_ratio_of_exact_areas(curve, other, budget):
    star = best_observed([curve, other])
    area = step_area(*curve, budget)
    best = sum(
        (max(step_value(*c, s) for c in (curve, other) for s in range(t + 1)) for t in range(budget)), Fraction(0)
    )
    expected = 1 - area / best if best else Fraction(0)
    assert normalised_regret(*curve, budget, oracle=star) == pytest.approx(float(expected), abs=1e-12)


@given(curves(), st.integers(1, 40), st.sampled_from(["step", "paper"]))
def test_against_an_oracle_curve_by_fine_sums(curve, budget, interpolation):
    """An oracle curve under either interpolation, against the midpoint rule on a grid that holds every breakpoint."""
    top = [max(float(v), 0.5) for v in curve[1]]
    x, star, low = curve[0], top, [v * share for v, share in zip(top, itertools.cycle([0.5, 0.75, 0.25]), strict=False)]
    t = (np.arange(budget * 64) + 0.5) / 64
    if interpolation == "paper":
        best, mine = np.interp(t, x, star), np.interp(t, x, low)
    else:
        place = np.searchsorted(x, t, side="right") - 1
        best, mine = np.array(star)[place], np.array(low)[place]
    got = normalised_regret(x, low, budget, oracle=(x, star), interpolation=interpolation)
    assert got == pytest.approx(1 - mine.sum() / best.sum(), abs=1e-12)


unit = st.floats(0, 1)


@given(curves(gaps=st.floats(0.01, 50), values=unit), st.floats(0.1, 300), st.sampled_from(["step", "paper"]))
def test_never_leaves_the_unit_interval(curve, budget, interpolation):
    assert 0.0 <= normalised_regret(*curve, budget, interpolation=interpolation) <= 1.0


@given(curves(), curves(), curves(), st.integers(1, 40))
def test_never_leaves_the_unit_interval_against_the_best_observed(a, b, c, budget):
    star = best_observed([a, b, c])
    assert all(0.0 <= normalised_regret(*curve, budget, oracle=star) <= 1.0 for curve in (a, b, c))
    assert normalised_regret(*star, budget, oracle=star) == 0.0


@given(curves(), st.integers(1, 40), st.floats(0.1, 1000), st.sampled_from(["step", "paper"]))
def test_the_unit_of_length_does_not_matter(curve, budget, unit_length, interpolation):
    x, j = np.array(curve[0], float), [float(v) for v in curve[1]]
    scaled = normalised_regret(x * unit_length, j, budget * unit_length, interpolation=interpolation)
    assert scaled == pytest.approx(normalised_regret(x, j, budget, interpolation=interpolation), abs=1e-9)


@given(curves(), st.integers(1, 40), st.data(), st.sampled_from(["step", "paper"]))
def test_a_better_episode_never_raises_it(curve, budget, data, interpolation):
    x, j = curve[0], [float(v) for v in curve[1]]
    better = list(j)
    place = data.draw(st.integers(0, len(j) - 1))
    better[place] = data.draw(st.floats(j[place], 1))
    before, after = (normalised_regret(x, v, budget, interpolation=interpolation) for v in (j, better))
    assert after <= before + 1e-12


@given(curves(), st.integers(1, 40), st.lists(st.tuples(st.integers(1, 20), EIGHTHS), max_size=4))
def test_points_beyond_the_budget_are_ignored(curve, budget, extra):
    x, j = list(curve[0]), list(curve[1])
    before = normalised_regret(x, j, budget)
    end = max(x[-1], budget)
    for gap, value in extra:
        end += gap
        x.append(end)
        j.append(value)
    assert normalised_regret(x, j, budget) == pytest.approx(before, abs=1e-15)


@given(curves(), st.integers(1, 40), st.data(), st.sampled_from(["step", "paper"]))
def test_unmeasured_points_are_as_if_they_were_not_there(curve, budget, data, interpolation):
    x, j = curve[0], [float(v) for v in curve[1]]
    hidden = data.draw(st.sets(st.integers(1, max(1, len(x) - 1))))
    kept = [i for i in range(len(x)) if i not in hidden]
    holes = [NAN if i in hidden else j[i] for i in range(len(x))]
    got = normalised_regret(x, holes, budget, interpolation=interpolation)
    assert got == normalised_regret([x[i] for i in kept], [j[i] for i in kept], budget, interpolation=interpolation)


def test_an_unmeasured_start_is_unmeasured_not_zero():
    assert np.isnan(normalised_regret([0, 5], [NAN, 1.0], 10))
    assert np.isnan(normalised_regret([2, 5], [NAN, 1.0], 10, interpolation="paper"))


def test_of_points_at_the_same_place_the_last_counts():
    assert normalised_regret([0, 5, 5], [0, 0, 1], 10) == 0.5
    with pytest.raises(ValueError, match="x does not ascend"):
        normalised_regret([0, 5, 5], [0, 0, 1], 10, interpolation="paper")


def test_scalar_oracle_and_an_oracle_of_zero():
    assert normalised_regret([0, 5], [0.2, 0.4], 10, oracle=0.5) == pytest.approx(0.4, abs=1e-15)  # 3 of 5
    assert normalised_regret([0], [0.0], 10, oracle=0.0) == 0.0


def test_rounding_does_not_leave_the_interval():
    assert normalised_regret([0], [np.float32(1) + np.float32(2e-7)], 10) == 0.0
    assert normalised_regret([0, 7, 11, 14], [0.9] * 4, 16, oracle=0.9) == 0.0  # 1 - ratio would be -2e-16


@pytest.mark.parametrize(
    ("x", "j", "budget", "options", "message"),
    [
        ([0, 5, 4], [0, 0, 0], 10, {}, "curve 0, point 2, x = 4, J = 0: x does not ascend"),
        ([0, -5], [0, 0], 10, {}, "x is negative"),
        ([0, 5], [0, 1.5], 10, {}, r"curve 0, point 1, x = 5, J = 1.5: J is outside \[0, 1\]"),
        ([0, 5], [-0.1, 1], 10, {}, "J is outside"),
        ([0, 5], [0, float("inf")], 10, {}, "J is outside"),
        ([0, float("inf")], [0, 0], 10, {}, "infinite"),
        ([3, 5], [0, 1], 10, {}, "the first point must be J_0 at x = 0"),
        ([0, NAN], [0, 1], 10, {}, "J is measured but x is NaN"),
        ([0, 5], [0], 10, {}, "the same points"),
        ([], [], 10, {}, "at least one"),
        ([0], [0], 0, {}, "budget = 0: the token budget must be positive"),
        ([0], [0], -3, {}, "budget = -3"),
        ([0], [0], float("inf"), {}, "budget = inf"),
        ([0], [0], 10, {"interpolation": "cubic"}, "valid are 'step' and 'paper'"),
        ([0], [0], 10, {"oracle": 1.2}, "oracle 0, point 0, x = 0, J = 1.2"),
        ([0, 5], [0, 0.9], 10, {"oracle": 0.8}, "the oracle lies below curve 0 at 5 tokens"),
        ([0, 5], [0, 0.9], 10, {"oracle": ([0, 5, 7], [0.1, 0.9, 0.8])}, "below curve 0 at 7 tokens"),
    ],
)
def test_bad_input_is_named(x, j, budget, options, message):
    with pytest.raises(ValueError, match=message):
        normalised_regret(x, j, budget, **options)


def test_an_oracle_is_compared_within_the_budget_and_between_the_points():
    assert normalised_regret([0, 10], [0.5, 1.0], 10, oracle=0.5) == 0.0
    slope = ([0, 10], [0.0, 1.0])
    # 0 to 0.4 at 5, then 0.4 to 0.6 at 10: 1 + 2.5 of 5.
    assert normalised_regret([0, 5, 10], [0, 0.4, 0.6], 10, slope, "paper") == pytest.approx(0.3, abs=1e-15)
    assert normalised_regret([0, 5, 10], [0, 0.4, 0.6], 5, ([0, 5, 10], [0, 0.5, 0.5]), "paper") == pytest.approx(0.2)
    with pytest.raises(ValueError, match="below curve 0 at 5 tokens"):
        normalised_regret([0, 5, 10], [0, 0.6, 0.8], 10, slope, "paper")


# ---- batches and means


@given(st.lists(curves(), min_size=1, max_size=5), st.integers(1, 40), st.sampled_from(["step", "paper"]))
def test_a_batch_equals_its_curves_one_by_one(batch, budget, interpolation):
    x, j = [c[0] for c in batch], [[float(v) for v in c[1]] for c in batch]
    alone = [normalised_regret(*c, budget, interpolation=interpolation) for c in zip(x, j, strict=True)]
    assert trace_regrets(x, j, budget, interpolation=interpolation) == pytest.approx(alone, abs=1e-14)
    width = max(map(len, x)) + 2
    padded = [np.array([row + [NAN] * (width - len(row)) for row in rows]) for rows in (x, j)]
    assert trace_regrets(*padded, budget, interpolation=interpolation) == pytest.approx(alone, abs=1e-14)


def test_an_oracle_of_each_row():
    x, j = [[0, 5], [0, 5]], [[0.0, 0.5], [0.25, 0.25]]
    got = trace_regrets(x, j, 10, oracle=([[0], [0]], [[0.5], [1.0]]))
    assert got.tolist() == [0.5, 0.75]


def test_the_mean_is_over_traces_and_then_over_problems():
    # Problem a: regrets 0 and 1; problem b: 1. Means 0.5 and 1, together 0.75 (and not 2 / 3).
    x, j = [[0], [0], [0]], [[1.0], [1.0], [0.0]]
    assert mean_normalised_regret(x, j, ["b", "a", "a"], 10) == pytest.approx(0.25)
    assert mean_normalised_regret(x, [[NAN], [1.0], [0.0]], ["b", "a", "a"], 10) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="3 samples but 2 problem keys"):
        mean_normalised_regret(x, j, ["a", "b"], 10)


@given(st.lists(st.tuples(curves(), st.sampled_from("abc")), min_size=1, max_size=6), st.integers(1, 40))
def test_regret_of_the_mean_curve_is_the_mean_regret(batch, budget):
    x, j = [c[0] for c, _ in batch], [[float(v) for v in c[1]] for c, _ in batch]
    problems = [key for _, key in batch]
    at, values = mean_curve(x, j, problems)
    assert normalised_regret(at, values, budget) == pytest.approx(
        mean_normalised_regret(x, j, problems, budget), abs=1e-12
    )
    by_hand = {key: [] for key in problems}
    for (curve, key), row in zip(batch, j, strict=True):
        by_hand[key].append([step_value(curve[0], row, t) for t in at])
    assert values == pytest.approx(np.mean([np.mean(rows, axis=0) for rows in by_hand.values()], axis=0), abs=1e-12)


def test_the_mean_curve_leaves_out_a_trace_without_a_start():
    at, values = mean_curve([[0, 4], [0, 2]], [[0.0, 1.0], [NAN, 0.5]], ["a", "a"])
    assert at.tolist() == [0, 4]
    assert values.tolist() == [0, 1]


# ---- best observed


def test_best_observed_of_two_step_curves():
    x, j = best_observed([([0, 10], [0.2, 0.8]), ([0, 5, 20], [0.5, 0.25, 0.6])])
    assert x.tolist() == [0, 5, 10, 20]
    assert j.tolist() == [0.5, 0.5, 0.8, 0.8]


def test_best_observed_of_episode_values():
    a, b = np.array([0.1, 0.6, 0.2]), np.array([0.3, 0.2, 0.4])
    assert best_observed([a, b]).tolist() == [0.3, 0.6, 0.6]
    assert best_observed([a, np.array([0.3])]).tolist() == [0.3, 0.6, 0.6]  # other numbers of episodes
    assert best_observed([a, np.array([0.0, 0.0, 0.0, 0.9])]).tolist() == [0.1, 0.6, 0.6, 0.9]
    holes = best_observed([np.array([NAN, NAN, 0.2]), np.array([NAN, 0.1, NAN])])
    assert np.isnan(holes[0])
    assert holes[1:].tolist() == [0.1, 0.2]
    assert best_observed([np.stack([a, b])]).tolist() == [[0.1, 0.6, 0.6], [0.3, 0.3, 0.4]]


def test_best_observed_needs_models_that_match():
    with pytest.raises(ValueError, match="at least one"):
        best_observed([])
    with pytest.raises(ValueError, match="agree in all axes but the last"):
        best_observed([np.zeros((2, 3)), np.zeros((4, 3))])


# ---- sums over episodes


def test_cumulative_regret_by_hand():
    stop_values = np.array([[0.1, 0.5, 0.75], [0.3, 1.0, NAN], [0.9, NAN, NAN]])
    regret = cumulative_regret(stop_values, 1.0)
    assert regret[:2].tolist() == [0.75, 0.0]  # 0.5 + 0.25; 0: J_0 does not count, nor does padding
    assert np.isnan(regret[2])
    assert cumulative_regret([0.1, 0.5, 0.75], 1.0) == 0.75


def test_cumulative_regret_against_curves():
    values = np.array([[0.0, 0.25, 0.5], [0.0, 0.5, 0.5]])
    assert cumulative_regret(values, [0.5, 0.5, 1.0]).tolist() == [0.75, 0.5]
    assert cumulative_regret(values, [0.5, 0.5, 1.0, 1.0]).tolist() == [0.75, 0.5]  # the oracle went on for longer
    assert cumulative_regret(values, [[1.0], [0.5]]).tolist() == [1.25, 0.0]  # every task its own optimum
    assert cumulative_regret(values, best_observed(list(values))).tolist() == [0.25, 0.0]
    assert cumulative_regret([3.0, 4.0], 5.0, first=0) == 3.0  # two episode returns


def test_cumulative_regret_names_a_bad_oracle():
    with pytest.raises(ValueError, match="the oracle has 2 columns, the values have 3"):
        cumulative_regret(np.zeros((2, 3)), [1.0, 1.0])
    with pytest.raises(ValueError, match="the oracle is NaN where a value was measured"):
        cumulative_regret(np.zeros((1, 3)), [1.0, 1.0, NAN])


def test_relative_regret_by_hand():
    # Returns 4 and 8 against an oracle of 10 and a random policy at 2: (6 + 2) / (8 + 8).
    assert relative_regret([4.0, 8.0], 10.0, 2.0, first=0) == 0.5
    # Stop values: J_0 is left out. (10 - 8) / (10 - 2).
    assert relative_regret([4.0, 8.0], 10.0, 2.0) == 0.25
    assert relative_regret([[10.0, 10.0], [2.0, 2.0], [1.0, NAN]], 10.0, 2.0, first=0).tolist() == [0.0, 1.0, 1.125]
    assert relative_regret([[4.0, 8.0]], [[10.0, 12.0]], [[0.0, 4.0]], first=0).tolist() == [10 / 18]


def test_relative_regret_without_anything_to_lose():
    assert np.isnan(relative_regret([[5.0, 5.0]], 5.0, 5.0)).all()
    assert np.isnan(relative_regret([[5.0, NAN]], 5.0, 1.0)).all()
    with pytest.raises(ValueError, match="row 1: the floor lies above the oracle"):
        relative_regret([[1.0, 1.0], [1.0, 1.0]], [[3.0], [1.0]], 2.0)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6), st.floats(0.1, 10), st.floats(-10, 10))
def test_relative_regret_does_not_depend_on_the_reward_scale(values, scale, shift):
    plain = relative_regret(values, 6.0, -6.0)
    scaled = relative_regret(np.array(values) * scale + shift, 6.0 * scale + shift, -6.0 * scale + shift)
    assert scaled == pytest.approx(float(plain), abs=1e-9)


@settings(max_examples=50)
@given(st.lists(st.lists(unit, min_size=4, max_size=4), min_size=1, max_size=5))
def test_stop_values_at_floor_zero_and_oracle_one(rows):
    assert relative_regret(rows, 1.0, 0.0) == pytest.approx(cumulative_regret(rows, 1.0) / 3)


# ---- along the episodes


def test_adaptation_curve_by_hand():
    with np.errstate(all="raise"):
        curve = adaptation_curve(np.array([[0.0, 1.0, NAN], [1.0, 2.0, NAN], [NAN, 6.0, NAN], [NAN, 3.0, 5.0]]))
    assert curve.n.tolist() == [2, 4, 1]
    assert curve.mean.tolist() == [0.5, 3.0, 5.0]
    # Deviations of (1, 2, 6, 3) from 3: 4 + 1 + 9 + 0 = 14; sqrt(14 / 3 / 4).
    assert curve.se[:2].tolist() == pytest.approx([0.5, np.sqrt(14 / 12)], abs=1e-15)
    assert np.isnan(curve.se[2])
    assert np.isnan(adaptation_curve(np.full((2, 1), NAN)).mean).all()


def test_progress_by_hand():
    moves = progress([[0.1, 0.3, NAN, 0.6, 0.5]])
    assert moves[0, [0, 3]].tolist() == pytest.approx([0.2, -0.1])
    assert np.isnan(moves[0, 1:3]).all()


@given(st.lists(unit, min_size=2, max_size=30))
def test_progress_telescopes(stop_values):
    assert progress(stop_values).sum() == pytest.approx(stop_values[-1] - stop_values[0], abs=1e-12)
