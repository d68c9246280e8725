"""The programs of evals/reasoning: how their figures are made, by hand, and that what they build is what they say."""

from collections import Counter

import numpy as np
import pytest

from evals.reasoning.grader import classes, different_pairs, equal_pairs, hacks, measure, share
from evals.reasoning.probe_agreement import agreement


def test_pairs_are_as_many_as_promised_and_their_truth_is_by_construction() -> None:
    different, equal = different_pairs(), equal_pairs()
    assert len(different) == len(set(different)) >= 3000
    assert len(equal) >= 2000
    assert len(set(hacks())) >= 300
    assert not set(different) & set(equal)
    for kind, groups in classes():
        spellings = Counter(text for group in groups for text in set(group))
        assert [text for text, count in spellings.items() if count > 1] == [], kind


def test_a_grader_is_judged_on_both_sides() -> None:
    equal, different = [("1", "1"), ("1", "1.0"), ("2", "2")], [("1", "2"), ("3", "4")]
    by_text = measure(lambda gold, answer: float(gold == answer), equal, different)
    assert (by_text["false_negatives"]["count"], by_text["false_positives"]["count"]) == (1, 0)
    assert by_text["refused"] == [("1", "1.0")]
    unscorable = measure(lambda gold, answer: None, equal, different)
    assert (unscorable["false_negatives"]["share"], unscorable["false_positives"]["share"]) == (1.0, 1.0)


def test_the_interval_of_a_share() -> None:
    found = share(0, 3000)
    assert found["low"] == 0.0
    assert found["high"] == pytest.approx(0.000836, abs=1e-5)  # Beta(0.5, 3000.5), 97.5 %


def test_agreement_by_hand() -> None:
    truth, estimate = np.array([0.0, 0.5, 1.0, 0.5]), np.array([0.0, 0.75, 1.0, 0.25])
    found = agreement(truth, estimate, [0, 0, 1, 1], samples=4)
    assert found["correlation"]["mean"] == pytest.approx(np.corrcoef(truth, estimate)[0, 1])
    assert found["bias"] == 0.0
    assert found["coverage"] == 1.0  # two standard errors of 0.25 at J = 0.5
    far = agreement(truth, np.array([0.5, 0.75, 1.0, 0.25]), [0, 0, 1, 1], samples=4)
    assert far["coverage"] == 0.75  # at J = 0 nothing else than 0 can come
    gap = agreement(truth, np.array([np.nan, 0.5, 1.0, 0.5]), [0, 0, 1, 1], samples=4)
    assert gap["correlation"]["mean"] == pytest.approx(1.0)
