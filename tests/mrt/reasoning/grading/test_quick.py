"""Comparisons that need no math-verify agree with it, and decide most of what is met."""

import random
import re
from collections.abc import Iterator
from fractions import Fraction

import pytest

from evals.reasoning.grader import different_pairs, equal_pairs, hacks
from mrt.reasoning.grading.arithmetic import plain, values
from mrt.reasoning.grading.compare import Question, compare
from mrt.reasoning.grading.form import read
from mrt.reasoning.grading.kinds import Kind
from mrt.reasoning.grading.math_grader import MathGrader
from mrt.reasoning.grading.math_text import Unreadable
from mrt.reasoning.grading.quick import decide
from mrt.reasoning.grading.verdict import Verdict
from tests.support.kind_pairs import RIGHT, WRONG

pytestmark = pytest.mark.training


def questions(pairs: list[tuple[str, str]]) -> Iterator[Question]:
    """What math-verify would be asked about them."""
    for gold, answer in pairs:
        try:
            wanted = read(gold, 20_000)
            letters = re.search("[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", wanted.core))
            given = read(answer, 20_000, wanted.kind is Kind.MATH and not letters, wanted.kind is Kind.WORDS)
        except Unreadable:
            continue
        found = compare(wanted, given)
        yield from [] if isinstance(found, str) else found


@pytest.mark.parametrize("share", [0.01, pytest.param(0.5, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_what_is_decided_is_what_math_verify_says(share: float) -> None:
    rng = random.Random(3)
    pairs = [*equal_pairs(), *different_pairs(), *hacks()]
    asked = list(questions(rng.sample([*pairs, *RIGHT, *WRONG], int(share * len(pairs)))))
    decided = [(question, equal) for question in asked if (equal := decide(question)) is not None]
    assert len(decided) > 0.6 * len(asked)
    with MathGrader(seconds=20.0) as grader:
        for question, equal in decided:
            assert (grader._ask_worker(question)[0] is Verdict.CORRECT) == equal, question


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("1/2", "0.5", True), ("1/3", "0.333333", None), ("10000", "9999.9", None), ("10000", "9999", False),
        ("0.1", "0.1000001", None), (r"\sqrt{8}", r"2\sqrt{2}", True), (r"\sqrt{x^2}", "x", None), ("x+1", "1+x", True),
        ("x+1", "x+2", False), ("(x+1)^2", "x^2+2x+1", True), (r"3\frac{1}{2}", "3.5", True),
        ("1/2x", r"\frac{x}{2}", None),
        (r"\pi", "3.14159265", None), (r"\log 8", "3", None), (r"e^{2}", r"e \cdot e", True), ("i^2", "-1", True),
        ("(1,2)", "(2,1)", False), ("(1,2)", "(1,2,3)", False), (r"\{1,2\}", r"\{2,1\}", True),
        ("[1,2)", "[1,2]", None),
        ("1,2", "2,1", True), ("1,234", "1,234,5", None), (r"(2,\infty)", "(2,3)", False), ("5", r"(-\infty,5)", False),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}", True), ("5", "5,5", None),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}", False), ("12", "y=-2x", False),
        ("x=5", "5", True), ("x=5", "y=5", None), ("y=2x+1", "2x+1", None), ("y=2x+1", "y=1+2x", True),
        ("5", "5,6", False),
        ("1/0", "1/0", None), ("1/(2-2)", "5", None), ("x2", "2x", None), ("2^10", "1024", None),
        (r"2^{10}", "1024", True),
        (r"x \in [0,1]", "[0,2]", False), (r"(0,1)\cup(1,2)", "3", False), (r"2^{1000000}", "5", None),
        (r"\sin(2x)", r"2\sin x\cos x", None), (r"\tan(x)", r"\cot(x)", False),
        (r"\frac{dy}{dx}", r"\frac{y}{x}", None),
        ("x^2=4", "x^2-4=0", None), ("|x|", "x", None), ("5!", "120", None), (r"\sqrt[3]{8}", "2", True),
        ("+".join(["1"] * 900), "900", None), ("5", r"\cupx", None),
    ],
)  # fmt: skip
def test_what_is_decided(gold: str, answer: str, equal: bool | None) -> None:
    assert decide(Question(gold, answer, False)) is equal


def test_percent_signs() -> None:
    def equal(gold: str, answer: str, signs: str) -> bool | None:
        return decide(Question(gold, answer, False, signs))

    assert equal("50", "0.5", "gold") is equal("50", "50", "gold") is equal("0.5", "50", "answer") is True
    assert equal("1", "1", "answer") is equal("0.3", "3", "answer") is False
    assert equal("50", "50", "both") is True


def test_a_gold_answer_against_itself() -> None:
    def usable(gold: str, written: bool = True) -> bool | None:
        return decide(Question(gold, gold, True, "", written))

    assert usable("5") is usable(r"x \in [0,\infty)") is usable(r"y=\cos x") is usable(r"\{2\}\cup[4,5)") is True
    for gold in ("1/0", r"\frac{x}{0}", r"x+\infty", "1/(2-2)", r"0^{-1}x", r"\log 0 x"):
        assert usable(gold) is None
    assert usable(r"\zzz x", written=False) is None


def test_values_are_exact_where_they_can_be() -> None:
    found = plain(r"\frac{1}{3}+0.25")
    assert found is not None
    assert values(found) == (Fraction(7, 12),)
    assert plain(r"\frac{1}{2") is plain("") is plain("x2") is plain(r"5\%") is None
