"""Accuracy versus tokens and samples: hand-computed, and against enumeration of every subset and every tie break."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt.metrics.budgets import isotonic
from mrt.metrics.regret import (
    Interval,
    accuracy_at_budgets,
    area_under_budget,
    maj_at_k,
    pass_at_k,
    rewards_at_budgets,
    tokens_at_equal_accuracy,
    tokens_at_equal_accuracy_interval,
)

NAN = float("nan")
unit = st.floats(0, 1)
curves = st.lists(unit, min_size=1, max_size=9)
# Thousandths: accuracies of finite samples, and never within a rounding error of each other without being equal.
accuracies = st.integers(0, 1000).map(lambda n: n / 1000)


def pool_adjacent_violators(values):
    """The textbook loop: merge blocks while the last one is not above the one before."""
    blocks = []
    for value in values:
        blocks.append((Fraction(value), 1))
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            (total, n), (more, m) = blocks[-2:]
            blocks[-2:] = [(total + more, n + m)]
    return [total / n for total, n in blocks for _ in range(n)]


def reference_ratio(budgets, baseline, ours):
    """In exact fractions: where the straight lines between the fitted points first stand at the level."""
    fitted = [pool_adjacent_violators(curve) for curve in (baseline, ours)]
    level = min(fitted[0][-1], fitted[1][-1])
    spent = []
    for curve in fitted:
        place = next(i for i, value in enumerate(curve) if value >= level)
        at = Fraction(budgets[place])
        if place > 0:
            low, high = curve[place - 1], curve[place]
            at = budgets[place - 1] + (level - low) / (high - low) * (budgets[place] - budgets[place - 1])
        spent.append(at)
    if spent[1] == 0:
        return 1.0 if spent[0] == 0 else math.inf
    return float(spent[0] / spent[1])


# ---- accuracy versus budget


def test_a_sample_counts_by_its_own_answer_once_its_thought_has_ended():
    rewards = rewards_at_budgets([3, 10], [1, 1], [[0, 0, 0], [0, 1, 0]], [0, 5, 10])
    assert rewards.tolist() == [[0, 1, 1], [0, 1, 1]]
    assert accuracy_at_budgets([3, 10], [1, 1], [[0, 0, 0], [0, 1, 0]], [0, 5, 10]).tolist() == [0, 1, 1]
    assert rewards_at_budgets([5], [1], [[0]], [5]).tolist() == [[1]]  # ended exactly at the budget
    assert rewards_at_budgets([6], [1], [[0]], [5]).tolist() == [[0]]


def test_a_truncated_thought_counts_by_the_forced_answer_where_one_was_taken():
    arguments = ([8, 8], [0.0, 0.0], [[0, 1, 1], [0, 0, NAN]], [0, 8, 16])
    assert rewards_at_budgets(*arguments).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert rewards_at_budgets(*arguments, truncated=[True, True]).tolist() == [[0, 1, 1], [0, 0, 0]]


def test_unscorable_samples_are_left_out_and_problems_weigh_the_same():
    tokens, own = [1, 1, 1, 9], [1, None, 0, 1]
    forced = [[1, NAN], [1, NAN], [0, NAN], [None, NAN]]
    assert accuracy_at_budgets(tokens, own, forced, [0, 2]).tolist() == [2 / 3, 0.5]
    by_problem = accuracy_at_budgets(tokens, own, forced, [0, 2], problems=["a", "a", "b", "b"])
    assert by_problem.tolist() == [0.5, 0.5]
    uneven = accuracy_at_budgets([1, 1, 1], [1, 1, 0], np.zeros((3, 1)), [2], problems=["a", "a", "b"])
    assert uneven.tolist() == [0.5]
    assert np.isnan(accuracy_at_budgets([9], [1], [[NAN]], [2])).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1], [1], [[0, 0]], [5, 5]), "ascending"),
        (([1], [1], [[0, 0]], [-1, 5]), "none negative"),
        (([1], [1], [[0, 0]], []), "budgets must be a list"),
        (([1], [1], [[0, 0, 0]], [0, 5]), r"forced \(1, 2\), got \(1,\) and \(1, 3\)"),
        (([1], [1, 1], [[0, 0]], [0, 5]), "own_reward of that shape"),
        (([NAN], [1], [[0, 0]], [0, 5]), "sample 0: its number of thinking tokens is NaN"),
    ],
)
def test_bad_samples_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        accuracy_at_budgets(*arguments)


def test_area_by_hand():
    assert area_under_budget([0, 10], [0, 1]) == 0.5
    # Trapezoids 10 * 0.3, 30 * 0.6 of 40.
    assert area_under_budget([0, 10, 40], [0.2, 0.4, 0.8]) == pytest.approx(21 / 40)
    # Below the first budget its value is held: 10 * 0.4 + 10 * 0.6 of 20.
    assert area_under_budget([10, 20], [0.4, 0.8]) == pytest.approx(0.5)
    assert area_under_budget([0, 10], [[1, 1], [0, 0]]).tolist() == [1, 0]


@given(st.data(), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_area_by_fine_sums(data, gaps):
    budgets = np.cumsum(gaps)
    accuracy = data.draw(st.lists(unit, min_size=len(gaps), max_size=len(gaps)))
    t = (np.arange(budgets[-1] * 64) + 0.5) / 64
    assert area_under_budget(budgets, accuracy) == pytest.approx(np.interp(t, budgets, accuracy).mean(), abs=1e-12)


def test_area_refuses_what_it_cannot_integrate():
    with pytest.raises(ValueError, match="the last budget is 0: it must be positive"):
        area_under_budget([0], [0.5])
    with pytest.raises(ValueError, match="accuracy is NaN at budget 10"):
        area_under_budget([0, 10], [0.5, NAN])
    with pytest.raises(ValueError, match=r"accuracy has shape \(3,\), but there are 2 budgets"):
        area_under_budget([0, 10], [0.5, 0.5, 0.5])


# ---- isotonic regression


def test_isotonic_by_hand():
    assert isotonic([1, 3, 2, 4]).tolist() == [1, 2.5, 2.5, 4]
    assert isotonic([3, 2, 1]).tolist() == [2, 2, 2]
    assert isotonic([[0, 1], [1, 0]]).tolist() == [[0, 1], [0.5, 0.5]]


@given(curves)
def test_isotonic_equals_pool_adjacent_violators(values):
    fitted = isotonic(values)
    assert fitted == pytest.approx([float(v) for v in pool_adjacent_violators(values)], abs=1e-12)
    assert (np.diff(fitted) >= 0).all()
    assert fitted.mean() == pytest.approx(np.mean(values), abs=1e-12)
    assert isotonic(np.sort(values)) == pytest.approx(np.sort(values), abs=1e-12)


@given(curves, st.data())
def test_no_other_monotone_sequence_is_nearer(values, data):
    other = np.sort(data.draw(st.lists(unit, min_size=len(values), max_size=len(values))))
    assert np.sum((isotonic(values) - values) ** 2) <= np.sum((other - values) ** 2) + 1e-12


# ---- tokens at equal accuracy


def test_half_the_tokens_for_the_same_accuracy():
    assert tokens_at_equal_accuracy([0, 10, 20], [0, 0.25, 0.5], [0, 0.5, 0.5]) == 2.0
    assert tokens_at_equal_accuracy([0, 10, 20], [0, 0.5, 0.5], [0, 0.25, 0.5]) == 0.5


def test_tokens_at_equal_accuracy_by_hand():
    # Level 0.4, the baseline's best, at 40 tokens. Ours passes it between 10 (0.2) and 20 (0.6), at 15.
    got = tokens_at_equal_accuracy([0, 10, 20, 40], [0.1, 0.2, 0.3, 0.4], [0.0, 0.2, 0.6, 0.9])
    assert got == pytest.approx(40 / 15)
    # A dip is pooled first: (0.6, 0.4) becomes (0.5, 0.5), reached at 20, and by the baseline at 40.
    assert tokens_at_equal_accuracy([0, 20, 40], [0, 0.25, 0.5], [0, 0.6, 0.4]) == pytest.approx(2.0)


def test_the_ends_of_the_scale():
    grid = [0, 10, 20]
    assert tokens_at_equal_accuracy(grid, [0.5, 0.5, 0.5], [0.5, 0.6, 0.7]) == 1.0  # both at once
    assert tokens_at_equal_accuracy(grid, [0, 0, 0], [0, 0.5, 1]) == 1.0  # nothing to reach
    assert tokens_at_equal_accuracy(grid, [0, 0.2, 0.4], [0.4, 0.4, 0.4]) == math.inf
    assert tokens_at_equal_accuracy(grid, [0.4, 0.4, 0.4], [0, 0.2, 0.4]) == 0.0
    assert tokens_at_equal_accuracy([5, 10], [0.1, 0.4], [0.4, 0.4]) == 2.0  # the first budget is not free
    with pytest.raises(ValueError, match="ours is NaN at budget 10"):
        tokens_at_equal_accuracy(grid, [0, 0, 0], [0, NAN, 0])


@given(st.data(), st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(0, 3))
def test_tokens_at_equal_accuracy_in_exact_fractions(data, gaps, first):
    budgets = [first + sum(gaps[:i]) for i in range(len(gaps) + 1)]
    baseline, ours = (data.draw(st.lists(accuracies, min_size=len(budgets), max_size=len(budgets))) for _ in range(2))
    expected = reference_ratio(budgets, [Fraction(str(v)) for v in baseline], [Fraction(str(v)) for v in ours])
    got = tokens_at_equal_accuracy(budgets, baseline, ours)
    assert got == pytest.approx(expected, rel=1e-6)  # an accuracy within 1e-9 of the level has reached it
    back = tokens_at_equal_accuracy(budgets, ours, baseline)
    if 0 < got < math.inf:
        assert got * back == pytest.approx(1.0)
    scaled = tokens_at_equal_accuracy(np.array(budgets) * 7.5, baseline, ours)
    assert scaled == pytest.approx(got)


def test_rounding_on_a_plateau_does_not_move_its_beginning():
    plateau = [0.1, 0.5 - 1e-13, 0.5 - 1e-14, 0.5]
    assert tokens_at_equal_accuracy([0, 10, 20, 40], [0.1, 0.2, 0.3, 0.5], plateau) == pytest.approx(4.0)


def arms(seeds=3, problems=40, samples=4, seed=0):
    """Drawn from thinking times of which ours are half as long: baseline, ours (seeds, problems, 6) and the budgets."""
    rng = np.random.default_rng(seed)
    budgets = np.array([0, 8, 16, 24, 32, 40])
    needed, ours_needed = rng.exponential(40, size=(2, seeds, problems, samples))
    baseline = (needed[..., None] <= budgets).mean(axis=2)
    ours = (ours_needed[..., None] / 2 <= budgets).mean(axis=2)
    return baseline, ours, budgets


def test_the_interval_equals_a_loop_over_the_same_draws():
    baseline, ours, budgets = arms(seeds=3, problems=7)
    got = tokens_at_equal_accuracy_interval(baseline, ours, budgets, n_boot=200, seed=5, level=0.9)
    rng = np.random.default_rng(5)
    seeds, problems = rng.integers(3, size=(200, 3, 1)), rng.integers(7, size=(200, 3, 7))
    ratios = []
    for b in range(200):
        cells = [(seeds[b, s, 0], problems[b, s, p]) for s in range(3) for p in range(7)]
        curves = [np.mean([arm[cell] for cell in cells], axis=0) for arm in (baseline, ours)]
        ratios.append(tokens_at_equal_accuracy(budgets, *curves))
    assert got.mean == pytest.approx(
        tokens_at_equal_accuracy(budgets, baseline.mean(axis=(0, 1)), ours.mean(axis=(0, 1)))
    )
    assert (got.low, got.high) == pytest.approx((np.sort(ratios)[9], np.sort(ratios)[190]))


def test_the_interval_holds_the_ratio_and_narrows_with_problems():
    few, many = (tokens_at_equal_accuracy_interval(*arms(problems=p), n_boot=500) for p in (20, 500))
    assert few.low < 2 < few.high
    assert 1.8 < many.low < many.mean < many.high < 2.2
    assert many.high - many.low < few.high - few.low


def test_the_interval_is_paired():
    baseline, _, budgets = arms()
    assert tokens_at_equal_accuracy_interval(baseline, baseline, budgets, n_boot=100) == Interval(1.0, 1.0, 1.0)
    # The same curves with the problems of one arm in another order are no longer paired.
    loose = tokens_at_equal_accuracy_interval(baseline, baseline[:, ::-1], budgets, n_boot=100)
    assert loose.low < 1 < loose.high


def test_seeds_are_resampled_too():
    one, ours, budgets = arms(seeds=1, problems=200)
    slow = np.stack([one[0], ours[0], ours[0]])  # seeds that disagree
    fast = np.repeat(ours, 3, axis=0)
    agree = tokens_at_equal_accuracy_interval(np.repeat(one, 3, axis=0), fast, budgets, n_boot=300)
    disagree = tokens_at_equal_accuracy_interval(slow, fast, budgets, n_boot=300)
    assert disagree.high - disagree.low > 2 * (agree.high - agree.low)
    assert tokens_at_equal_accuracy_interval(one[0], ours[0], budgets, seed=3) == tokens_at_equal_accuracy_interval(
        one, ours, budgets, seed=3
    )


def test_cells_unscored_in_one_arm_are_left_out_of_both():
    baseline, ours, budgets = arms(seeds=1, problems=30)
    holes = baseline.copy()
    holes[0, 0] = NAN
    other = ours.copy()
    other[0, 1] = NAN
    got = tokens_at_equal_accuracy_interval(holes, other, budgets, n_boot=50)
    assert got.mean == tokens_at_equal_accuracy_interval(baseline[:, 2:], ours[:, 2:], budgets, n_boot=50).mean
    holes[0, :, 3] = NAN
    with pytest.raises(ValueError, match="no problem is scored in both arms at budget 24"):
        tokens_at_equal_accuracy_interval(holes, ours, budgets)
    with pytest.raises(ValueError, match=r"must both be \(seeds, problems, 6 budgets\)"):
        tokens_at_equal_accuracy_interval(baseline, ours[:, 1:], budgets)


def test_the_interval_may_be_infinite():
    budgets, baseline, ours = [0, 10], np.zeros((1, 4, 2)), np.zeros((1, 4, 2))
    baseline[0, :2, 1] = ours[0, :2] = 1.0
    got = tokens_at_equal_accuracy_interval(baseline, ours, budgets, n_boot=200)
    assert got == Interval(math.inf, 1.0, math.inf)  # 1.0 where no solved problem was drawn


# ---- samples as the budget


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_equals_enumeration(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        subsets = list(itertools.combinations([1] * c + [0] * (n - c), k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(max, subsets)) / len(subsets), abs=1e-12)


def test_pass_at_k_by_hand_and_large():
    assert pass_at_k(4, 1, 2) == 0.5
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3, abs=1e-15)
    assert pass_at_k(10_000, 1, 5_000) == 0.5


@pytest.mark.parametrize(
    ("n", "c", "k", "message"),
    [
        (4, 2, 8, "k = 8 of n = 4"),
        (4, 2, 0, "k = 0 of n = 4"),
        (4, 5, 2, "c = 5 correct of n = 4"),
        (4, -1, 2, "c = -1"),
    ],
)
def test_pass_at_k_names_what_cannot_be(n, c, k, message):
    with pytest.raises(ValueError, match=message):
        pass_at_k(n, c, k)


def enumerated_majority(answers, correct, k):
    """Every k-subset, and in each every answer that ties for the lead."""
    right = dict(zip(answers, correct, strict=True))
    total, subsets = Fraction(0), 0
    for subset in itertools.combinations(answers, k):
        subsets += 1
        votes = Counter(answer for answer in subset if answer is not None)
        if votes:
            lead = max(votes.values())
            leaders = [answer for answer, count in votes.items() if count == lead]
            total += Fraction(sum(right[answer] for answer in leaders), len(leaders))
    return float(total / subsets)


@settings(max_examples=150)
@given(st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=1, max_size=9), st.sets(st.sampled_from("abcd")))
def test_maj_at_k_equals_enumeration_with_every_tie_break(answers, right):
    correct = [answer in right for answer in answers]
    for k in range(1, len(answers) + 1):
        assert maj_at_k(answers, correct, k) == pytest.approx(enumerated_majority(answers, correct, k), abs=1e-12)
    assert maj_at_k(answers, correct, 1) == pytest.approx(np.mean(correct), abs=1e-12)
    order = np.random.default_rng(0).permutation(len(answers))
    shuffled = [answers[i] for i in order], [correct[i] for i in order]
    assert maj_at_k(*shuffled, len(answers)) == maj_at_k(answers, correct, len(answers))


def test_maj_at_k_by_hand():
    assert maj_at_k(["7", "7", "8"], [1, 1, 0], 3) == 1.0
    assert maj_at_k(["7", "8"], [1, 0], 2) == 0.5  # a tie is broken at random
    assert maj_at_k(["7", "8", "9"], [1, 0, 0], 3) == pytest.approx(1 / 3)
    # Pairs of 7 7 8: {7,7} wins, {7,8} twice is half: (1 + 1/2 + 1/2) / 3.
    assert maj_at_k(["7", "7", "8"], [1, 1, 0], 2) == pytest.approx(2 / 3)


def test_unparsed_answers_take_a_place_but_never_win():
    assert maj_at_k([None, None, None, "7"], [0, 0, 0, 1], 4) == 1.0
    assert maj_at_k([None, None, None, "7"], [0, 0, 0, 1], 1) == 0.25
    assert maj_at_k([None, None], [0, 0], 2) == 0.0


def test_unscorable_samples_leave_the_vote():
    answers, correct = ["7", "8", "8", "9"], [1, None, NAN, 0]
    assert maj_at_k(answers, correct, 2) == 0.5
    with pytest.raises(ValueError, match="k = 3 of n = 2"):
        maj_at_k(answers, correct, 3)


@pytest.mark.parametrize(
    ("answers", "correct", "k", "message"),
    [
        (["7"], [1], 2, "k = 2 of n = 1"),
        (["7"], [1, 0], 1, "1 answers but 2 verdicts"),
        (["7", "7"], [1, 0], 1, "answer '7' is marked both correct and wrong"),
        (["7"], [0.5], 1, "answer '7': correct must be 0, 1 or None, got 0.5"),
    ],
)
def test_maj_at_k_names_what_cannot_be(answers, correct, k, message):
    with pytest.raises(ValueError, match=message):
        maj_at_k(answers, correct, k)


def test_maj_at_k_of_many_samples_agrees_with_random_subsets():
    rng = np.random.default_rng(0)
    answers = rng.choice(12, size=64, p=[0.2, 0.18] + [0.062] * 10)
    exact = maj_at_k(answers.tolist(), (answers == 0).tolist(), 16)
    draws = np.array([rng.choice(answers, 16, replace=False) for _ in range(20_000)])
    votes = (draws[:, :, None] == np.arange(12)).sum(axis=1)
    leads = votes == votes.max(axis=1, keepdims=True)
    won = leads[:, 0] / leads.sum(axis=1)
    assert abs(won.mean() - exact) < 4 * won.std() / np.sqrt(len(won))
