"""Measures of test-time compute against numbers worked out by hand."""

import itertools
import math

import numpy as np
import pytest

from mrt.metrics.bootstrap import bootstrap_sums
from mrt.reasoning.evaluation.measures import (
    answer_form,
    boundary_at,
    calibration,
    chance_above,
    maj_at_k_curve,
    majority_after_episodes,
    overthinking_adjusted,
    pass_at_k_curve,
    powers,
    thinking_of,
    thinking_summary,
)

pytestmark = pytest.mark.training


def answer(text, right, verdict=None):
    return {"answer": text, "verdict": verdict or ("correct" if right else "wrong"), "reward": float(right)}


def test_powers_end_with_n():
    assert [powers(n) for n in (0, 1, 4, 6)] == [[], [1], [1, 2, 4], [1, 2, 4, 6]]


def test_pass_at_k_is_the_mean_over_problems_of_the_unbiased_estimate():
    lines = pass_at_k_curve([[1, 0, 0, 0], [1, 1, 0, 0], [0, None, 0, 0]], [1, 2, 4])
    # 1 - C(n-c, k) / C(n, k): (1/4, 1/2, 0) at k = 1, (1/2, 5/6, 0) at k = 2; the third has only three scored samples
    assert [line["mean"] for line in lines] == pytest.approx([0.25, (1 / 2 + 5 / 6) / 3, 1.0])
    assert [line["n"] for line in lines] == [3, 3, 2]


def test_maj_at_k_is_the_expectation_over_all_subsets_with_even_ties():
    group = [
        answer("7", True),
        answer("7", True),
        answer(" 8 ", False),
        answer("$8$", False),
        answer(None, False, "unparsed"),
    ]
    forms, right = ["7", "7", "8", "8", None], [1, 1, 0, 0, 0]

    def vote(subset):
        counts = {form: [forms[i] for i in subset].count(form) for form in {forms[i] for i in subset} - {None}}
        best = [form for form, count in counts.items() if count == max(counts.values())]
        return sum(right[forms.index(form)] for form in best) / len(best) if best else 0.0

    for line in maj_at_k_curve([group, group], [1, 2, 3, 5]):
        subsets = list(itertools.combinations(range(5), line["k"]))
        assert line["mean"] == pytest.approx(sum(map(vote, subsets)) / len(subsets), abs=1e-12)


def test_one_form_that_was_judged_in_two_ways_is_two_answers():
    (line,) = maj_at_k_curve([[answer("1 / 2", True), answer("1/2", False), answer("3", False)]], [3])
    assert line["mean"] == pytest.approx(1 / 3)


def test_answers_are_joined_by_their_text_alone():
    assert answer_form(r" $\dfrac{1}{2}$. ") == answer_form(r"\frac{1} {2}") == r"\frac{1}{2}"
    assert answer_form("0.5") != answer_form("1/2")
    assert answer_form(" ") is None
    assert answer_form(None) is None


def test_votes_after_each_episode():
    votes = [[answer("1", True), answer("2", False), answer("2", False)], [answer("1", True)] * 3]
    assert majority_after_episodes(votes, 3) == [0.0, 1.0]
    assert majority_after_episodes(votes, 1) == pytest.approx([1 / 3, 1.0])
    unscored = [[{**answer("1", True), "reward": None, "verdict": "timeout"}, answer("1", True)]]
    assert math.isnan(majority_after_episodes(unscored, 2)[0])


def test_thinking_by_hand():
    over = thinking_of([0, 10, 20, 40], [0.1, 0.6, 0.7, 0.9], True, 40)
    assert (over.after, over.reached, over.abandoned) == (30, True, False)
    left = thinking_of([0, 10, 20], [0.1, 0.8, 0.2], False, 20)
    assert (left.after, left.abandoned) == (10, True)
    never = thinking_of([0, 10], [0.1, 0.2], False, 10)
    assert (never.after, never.reached, never.abandoned) == (0, False, False)
    found = thinking_summary([over, left, never], ["a", "b", "b"])
    assert found["overthinking"]["mean"] == pytest.approx((30 + 10) / (40 + 20))
    assert found["underthinking"]["mean"] == pytest.approx(1 / 2)
    assert found["reached"]["mean"] == pytest.approx(2 / 3)
    assert math.isnan(thinking_summary([over], ["a"])["underthinking"]["mean"])  # nothing was wrong


def thought(rng, truth, episodes=20, samples=4):
    """One trace whose J is `truth` throughout, and the answers that say so."""
    drawn = [(rng.random(samples) < truth).astype(float).tolist() for _ in range(episodes + 1)]
    ends = [float(10 * j) for j in range(episodes + 1)]
    return thinking_of(ends, [sum(one) / samples for one in drawn], False, ends[-1], answers=drawn)


def test_noise_alone_is_no_overthinking():
    """J is .2 at all 21 boundaries, four answers each: the first estimate above one half is nearly always there, a
    boundary that is surely above it hardly ever. Where J is .95 it is found."""
    rng = np.random.default_rng(0)
    assert sum(thought(rng, 0.2).reached for _ in range(400)) / 400 < 0.06
    assert sum(thought(rng, 0.95).reached for _ in range(400)) == 400
    low, high = [0.0, 0.0, 0.0, 1.0], [1.0] * 4
    found = thinking_of([0, 10, 20], [0.25, 1.0, 0.25], False, 20, answers=[low, high, low])
    assert (found.after, found.abandoned) == (10, True)


def test_chance_above_by_hand():
    assert chance_above(2, 4) == pytest.approx(0.5)
    assert chance_above(0, 0) == pytest.approx(0.5)
    assert chance_above(4, 4) == pytest.approx(1 - chance_above(0, 4))
    # Beta(3/2, 1/2) at 1/2: 2/pi (arcsin sqrt x - sqrt(x (1 - x))) = 1/2 - 1/pi below
    assert chance_above(1, 1) == pytest.approx(0.5 + 1 / math.pi)


def test_the_noise_of_an_estimate_is_no_miscalibration():
    """J is uniform and the outcomes follow it exactly; four answers estimate it. And a J that says too much is seen."""
    rng = np.random.default_rng(1)
    truth = rng.random(6000)
    drawn = [(rng.random(4) < p).astype(float).tolist() for p in truth]
    estimate, keys = [sum(one) / 4 for one in drawn], range(6000)
    right = (rng.random(6000) < truth).astype(float)
    plain, fair = calibration(estimate, right, keys), calibration(estimate, right, keys, answers=drawn)
    assert plain["ece"]["mean"] > 0.09
    assert fair["ece"]["mean"] < 0.025
    assert plain["brier"]["mean"] > 1 / 6 + 0.03
    assert fair["brier"]["mean"] == pytest.approx(1 / 6, abs=0.01)  # E[J (1 - J)] of a uniform J
    worse = (rng.random(6000) < truth / 2).astype(float)
    assert calibration(estimate, worse, keys, answers=drawn)["ece"]["mean"] == pytest.approx(0.25, abs=0.03)
    assert calibration([0.5], [1.0], ["a"], answers=[[1.0]]) is None  # nothing to set a single answer against


def test_overthinking_adjusted_accuracy_by_hand():
    # Right after 10 tokens: 0 at caps 0, then 1 from 10 on; trapezoids over [0, 20]: (0 + 1) / 2 * 10 + 10 = 15 of 20.
    area = overthinking_adjusted([10, 20, 5], [1, 1, np.nan], [False, True, False], [0, 10, 20])
    assert area[:2] == pytest.approx([0.75, 0.0])  # an unclosed thought never counts here
    assert math.isnan(area[2])


def test_calibration_by_hand():
    j, y = [0.05, 0.15, 0.15, 1.0, 0.95, math.nan], [0, 0, 1, 1, 0, 1]
    found = calibration(j, y, ["a", "a", "b", "b", "c", "c"])
    assert found["n"] == 5
    assert found["brier"]["mean"] == pytest.approx((0.05**2 + 0.15**2 + 0.85**2 + 0 + 0.95**2) / 5)
    # bins [0, .1): 1 of J .05, outcome 0; [.1, .2): 2, J .15, outcome .5; [.9, 1]: 2, J .975, outcome .5
    assert found["ece"]["mean"] == pytest.approx((0.05 + 2 * 0.35 + 2 * 0.475) / 5)
    assert [(line["n"], line["outcome"]) for line in found["curve"]] == [(1, 0.0), (2, 0.5), (2, 0.5)]
    assert found["curve"][-1]["forecast"] == pytest.approx(0.975)
    assert found["ece"]["low"] <= found["ece"]["mean"]
    assert calibration([math.nan], [1.0], ["a"]) is None


def test_a_perfect_forecast_has_no_error():
    found = calibration([0, 1, 1, 0], [0, 1, 1, 0], list("abcd"))
    assert (found["ece"]["mean"], found["brier"]["high"]) == (0.0, 0.0)


def test_j_is_held_between_boundaries():
    values = [0.1, 0.5, 0.9]
    assert [values[boundary_at([0, 10, 20], at)] for at in (0, 9, 10, 19, 99)] == [0.1, 0.1, 0.5, 0.5, 0.9]
    assert boundary_at([0, 10], -1) is None


def test_the_interval_of_a_ratio_resamples_problems_whole():
    sums = np.array([[1.0, 2.0], [3.0, 3.0], [0.0, 5.0]])
    found = bootstrap_sums(sums, lambda total: total[..., 0] / total[..., 1], n_boot=500)
    assert found.mean == pytest.approx(0.4)
    draws = [sums[list(rows)].sum(0) for rows in itertools.product(range(3), repeat=3)]
    ratios = sorted(total[0] / total[1] for total in draws)
    assert ratios[0] <= found.low <= found.mean <= found.high <= ratios[-1]
    with pytest.raises(ValueError, match="no problem"):
        bootstrap_sums(np.zeros((0, 2)), lambda total: total[..., 0])
