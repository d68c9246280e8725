"""The battery of pairs whose truth is known by construction: no wrong one accepted, hardly a right one refused."""

import random

import pytest

from evals.reasoning.grader import different_pairs, equal_pairs, hacks, measure
from mrt.reasoning.grading.math_grader import MathGrader

pytestmark = pytest.mark.training


@pytest.mark.parametrize("share", [0.02, pytest.param(1.0, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_pairs_by_construction(share: float) -> None:
    rng = random.Random(0)
    equal, different, tricks = equal_pairs(), different_pairs(), hacks()
    assert len(equal) + len(different) >= 6000
    assert len(different) >= 4000
    assert len(tricks) >= 300
    equal, different, tricks = (rng.sample(pairs, int(share * len(pairs))) for pairs in (equal, different, tricks))
    with MathGrader(seconds=10.0) as grader:
        found = measure(lambda gold, answer: grader.grade_answer(answer, gold).reward, equal, different)
        paid = [pair for pair in tricks if grader.grade(rf"\boxed{{{pair[1]}}}", pair[0]).reward not in (0.0, None)]
    assert found["false_positives"]["share"] <= 0.001, found["accepted"]
    assert found["false_negatives"]["share"] <= 0.01, found["refused"]
    assert paid == []
