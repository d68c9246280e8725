"""The bootstrap: against a loop over the same draws, by hand where they are known, and its coverage by simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrt.metrics.bootstrap import (
    CHUNK,
    Interval,
    bootstrap,
    interquartile_mean,
    mean_by_problem,
    pad_rows,
    paired_bootstrap,
    seed_and_problem_counts,
)

NAN = float("nan")
scores = st.lists(st.floats(-10, 10), min_size=2, max_size=12)


def test_bootstrap_equals_a_loop_over_the_same_draws():
    values = np.random.default_rng(1).random((9, 3))
    got = bootstrap(values, n_boot=199, seed=4, level=0.9)
    rng = np.random.default_rng(4)
    draws = sorted(values[rng.integers(9, size=9)].mean() for _ in range(199))
    assert got.mean == pytest.approx(values.mean(), abs=1e-15)
    assert (got.low, got.high) == pytest.approx((draws[9], draws[189]), abs=1e-15)


def test_samples_of_a_problem_stay_together():
    # Two problems, one always solved: a resample holds 0, 1 or 2 of it, whatever the number of samples.
    got = bootstrap([[1.0] * 50, [0.0] * 50], n_boot=500)
    assert got == Interval(0.5, 0.0, 1.0)
    single = bootstrap([1.0] * 50 + [0.0] * 50, n_boot=500)
    assert single.high - single.low < 0.25


def test_a_problem_with_more_samples_weighs_no_more():
    assert bootstrap([[1.0, 1.0, 1.0, 0.0], [0.0]]).mean == 0.375


def test_unscorable_samples_and_problems_are_left_out():
    plain = bootstrap([[1.0, 0.0], [1.0], [0.0]], seed=1)
    assert bootstrap([[1.0, None, 0.0], [None, 1.0], [None], [0.0, NAN]], seed=1) == plain
    with pytest.raises(ValueError, match="no scorable sample"):
        bootstrap([[None], [NAN]])


def test_one_problem_has_no_interval():
    got = bootstrap([[1.0, 0.0]])
    assert got.mean == 0.5
    assert np.isnan([got.low, got.high]).all()


def test_the_seed_decides_everything():
    values = np.random.default_rng(0).random((30, 2))
    assert bootstrap(values, seed=7) == bootstrap(values, seed=7)
    assert bootstrap(values, seed=7) != bootstrap(values, seed=8)
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    bootstrap(values)
    assert (np.random.get_state()[1] == before).all()  # the global generator is not touched


def test_many_problems_are_drawn_in_blocks():
    problems = 1 << 16
    values = np.arange(problems) / problems
    n_boot = 2 * CHUNK // problems + 3
    got = bootstrap(values, n_boot=n_boot)
    assert got.low < got.mean < got.high
    assert 0.5 < (got.high - got.low) / (2 * 1.96 * np.sqrt(1 / 12 / problems)) < 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 1.0}, "level = 1.0 is not a probability"),
        ({"level": 95}, "level = 95"),
        ({"n_boot": 0}, "n_boot = 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap([[1.0], [0.0]], **options)


@given(scores, st.integers(0, 5))
def test_an_interval_lies_within_the_data_and_widens_with_the_level(values, seed):
    wide, narrow = (bootstrap(values, n_boot=60, seed=seed, level=level) for level in (0.95, 0.5))
    assert min(values) - 1e-9 <= wide.low <= narrow.low <= narrow.high <= wide.high <= max(values) + 1e-9


@given(scores, st.floats(0.1, 10), st.floats(-10, 10))
def test_an_interval_moves_with_the_scale(values, scale, shift):
    plain, moved = bootstrap(values, n_boot=60), bootstrap(np.array(values) * scale + shift, n_boot=60)
    expected = [part * scale + shift for part in (plain.mean, plain.low, plain.high)]
    assert [moved.mean, moved.low, moved.high] == pytest.approx(expected, abs=1e-9)


# ---- paired


def test_the_paired_difference_uses_the_same_problems_in_both_arms():
    a = np.random.default_rng(0).random(40)
    got = paired_bootstrap(a + 0.25, a, n_boot=200)
    assert [got.mean, got.low, got.high] == pytest.approx([0.25] * 3, abs=1e-12)
    assert paired_bootstrap(a, a) == Interval(0.0, 0.0, 0.0)
    for other in (a[::-1], np.flip(np.sort(a))):
        assert paired_bootstrap(a, other, n_boot=200).high > 0.02


def test_the_arms_may_be_swapped():
    a, b = np.random.default_rng(3).random((2, 20))
    there, back = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert there == Interval(-back.mean, -back.high, -back.low)


def test_the_paired_difference_of_means_is_the_bootstrap_of_the_differences():
    a, b = np.random.default_rng(2).random((2, 15))
    got, same = paired_bootstrap(a, b, seed=3), bootstrap(a - b, seed=3)
    assert [got.mean, got.low, got.high] == pytest.approx([same.mean, same.low, same.high], abs=1e-12)


def test_a_problem_unscored_in_one_arm_is_left_out_of_both():
    a, b = [[1.0], [None], [0.0, 1.0], [1.0]], [[0.0, 0.0, 1.0], [1.0], [1.0], [NAN]]
    assert paired_bootstrap(a, b, seed=2) == paired_bootstrap([1.0, 0.5], [1 / 3, 1.0], seed=2)
    with pytest.raises(ValueError, match="2 in a, 3 in b"):
        paired_bootstrap([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="no problem has a scorable sample in both arms"):
        paired_bootstrap([1.0, NAN], [NAN, 1.0])


# ---- coverage


def skewed_problems(rng, problems):
    """Difficulties from a Beta(1, 3) distribution (mean 1/4), four 0/1 samples a problem."""
    return (rng.random((problems, 4)) < rng.beta(1, 3, size=(problems, 1))).astype(float)


def test_coverage_of_the_bootstrap_is_nominal():
    rng = np.random.default_rng(0)
    intervals = [bootstrap(skewed_problems(rng, 100), n_boot=500, seed=i) for i in range(1500)]
    assert 0.93 <= np.mean([i.low <= 0.25 <= i.high for i in intervals]) <= 0.97


def test_samples_taken_for_problems_would_cover_too_little():
    rng = np.random.default_rng(0)
    intervals = [bootstrap(skewed_problems(rng, 80).ravel(), n_boot=400, seed=i) for i in range(400)]
    assert np.mean([i.low <= 0.25 <= i.high for i in intervals]) < 0.9


def test_coverage_of_the_paired_bootstrap_is_nominal():
    rng = np.random.default_rng(1)
    hits = []
    truth = 16 / 35 - 0.25  # E sqrt(p) = B(1.5, 3) / B(1, 3) = 16/35
    for i in range(1500):
        easy = rng.beta(1, 3, size=(100, 1))
        a, b = rng.random((100, 4)) < np.sqrt(easy), rng.random((100, 2)) < easy
        got = paired_bootstrap(a.astype(float), b.astype(float), n_boot=500, seed=i)
        hits.append(got.low <= truth <= got.high)
    assert 0.93 <= np.mean(hits) <= 0.97


# ---- the pieces


def test_interquartile_mean_by_hand():
    assert interquartile_mean([100, 1, 2, -50]) == 1.5
    assert interquartile_mean([9, 1, 2, 3, 4]) == 3.0  # one cut at either end: 2, 3, 4
    assert interquartile_mean([3, 5]) == 4.0
    assert interquartile_mean([[0, 1, 2, 9], [4, 4, 4, 4]]).tolist() == [1.5, 4.0]
    with pytest.raises(ValueError, match="drop NaN first"):
        interquartile_mean([1.0, NAN])
    with pytest.raises(ValueError, match="at least one number"):
        interquartile_mean([])


def test_a_statistic_of_the_scores():
    values = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 100.0]
    got = bootstrap(values, statistic=interquartile_mean, n_boot=300)
    assert got.mean == pytest.approx(0.35)
    assert got.high < 100
    median = paired_bootstrap(values, [0.0] * 8, statistic=lambda s: np.median(s, axis=-1), n_boot=300)
    assert median.mean == pytest.approx(0.35)


def test_pad_rows():
    table = pad_rows([[1, None], [2.0], [], [3, 4, 5]])
    assert table.shape == (4, 3)
    assert np.array_equal(table, [[1, NAN, NAN], [2, NAN, NAN], [NAN] * 3, [3, 4, 5]], equal_nan=True)
    assert pad_rows([1, 2]).tolist() == [[1], [2]]
    source = np.ones((2, 2))
    pad_rows(source)[0] = 5
    assert source.tolist() == [[1, 1], [1, 1]]


def test_mean_by_problem_keeps_the_order_of_appearance():
    values = [[1.0, NAN], [3.0, NAN], [None, 5.0], [5.0, 7.0]]
    got = mean_by_problem(values, ["z", "a", "z", "a"])
    assert got.tolist() == [[1.0, 5.0], [4.0, 7.0]]
    assert np.isnan(mean_by_problem([NAN], ["a"])).all()


def test_seeds_are_drawn_first_and_then_problems_within_each():
    counts = np.concatenate(list(seed_and_problem_counts(3, 5, 400, seed=0)))
    assert counts.shape == (400, 15)
    by_seed = counts.reshape(400, 3, 5).sum(axis=2)
    assert (by_seed % 5 == 0).all()  # a seed drawn brings five problems
    assert (counts.sum(axis=1) == 15).all()
    assert counts.mean() == pytest.approx(1.0)
    assert (by_seed == 0).any()
    blocks = list(seed_and_problem_counts(1, 2, 10, seed=0, width=CHUNK // 4))
    assert [len(block) for block in blocks] == [4, 4, 2]
