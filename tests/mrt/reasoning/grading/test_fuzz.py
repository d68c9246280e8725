"""Garbled answers: a verdict each, never an exception, never a hang."""

import random
import time
from collections import Counter

import pytest

from mrt.reasoning.grading.math_grader import MathGrader
from mrt.reasoning.grading.verdict import Grade, Verdict, extract_boxed, find_boxes, split_thought, verdict_shares

pytestmark = pytest.mark.training

GOLDS = [
    "5",
    r"\frac{1}{2}",
    r"x^2+1",
    r"\{1,2\}",
    "[1,2)",
    r"50\%",
    r"\text{yes}",
    "x=3",
    r"\sqrt{2}",
    "1,234",
    r"5\text{ cm}",
    r"9.8\ \mathrm{m}/\mathrm{s}^2",
    "10:30 AM",
    "1:2:3",
    r"\frac{1 \pm \sqrt{5}}{2}",
    r"\min \text{ at } x=1",
    "C",
    r"n \equiv 2 \pmod 5",
]
COMMANDS = [r"\frac", r"\sqrt", r"\pi", r"\text", r"\left", r"\right", r"\cup", r"\infty", r"\pm", r"\circ", r"\binom"]
COMMANDS += [
    r"\sum_",
    r"\int_",
    r"\begin{pmatrix}",
    r"\end{pmatrix}",
    r"\overline",
    r"\mathbb",
    r"\in",
    r"\\",
    r"\%",
    r"\,",
]
ATOMS = ["0", "1", "7", "12", "0.5", "-3", "x", "y", r"\pi", "n", "e", "i", "1,000", r"\infty", "100"]
COMMANDS += [r"\pm", r"\mathrm{km}/\mathrm{h}", r"\text{ squared}", r"\text{ dozen}", r"\equiv", r"\pmod", " to ", ":"]
UNICODE = "½²√π∞≤×÷−°％１２，ａ\u200b\u202e\ud800😀é中\x00\x07"


def expression(rng: random.Random, depth: int) -> str:
    """A random expression of a small LaTeX grammar."""
    if depth == 0 or rng.random() < 0.25:
        return rng.choice(ATOMS)
    a, b = expression(rng, depth - 1), expression(rng, depth - 1)
    forms = [
        *(
            f"{a}+{b}",
            f"{a}-{b}",
            f"{a}{b}",
            rf"{a} \cdot {b}",
            f"{a}/{b}",
            f"({a})",
            f"{a}^{{{b}}}",
            f"{a},{b}",
            f"{a}!",
        ),
        *(
            rf"\frac{{{a}}}{{{b}}}",
            rf"\sqrt{{{a}}}",
            rf"\sqrt[3]{{{a}}}",
            rf"\{{{a},{b}\}}",
            f"({a},{b})",
            f"[{a},{b})",
        ),
        *(f"{a}={b}", f"{a}<{b}", rf"\sin({a})", rf"\log_{{{a}}}{{{b}}}", rf"{a}\text{{ or }}{b}", rf"{a}\text{{ cm}}"),
        *(rf"\sum_{{n=1}}^{{{a}}} {b}", rf"\int_0^{{{a}}} {b} dx", rf"\begin{{pmatrix}}{a}\\{b}\end{{pmatrix}}"),
        *(rf"\binom{{{a}}}{{{b}}}", rf"{a} \pm {b}", rf"{a}\%", rf"{a}_{{{b}}}", rf"\lfloor {a} \rfloor", f"|{a}|"),
        *(rf"\overline{{{a}}}", rf"\boxed{{{a}}}"),
    ]
    return rng.choice(forms)


def mutated(rng: random.Random, text: str) -> str:
    """Characters dropped, doubled, swapped and replaced."""
    letters = list(text)
    for _ in range(rng.randint(1, 4)):
        i = rng.randrange(len(letters) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            del letters[i : i + rng.randint(1, 3)]
        elif kind == 1:
            letters[i:i] = letters[max(0, i - 5) : i]
        elif kind == 2:
            letters.insert(i, rng.choice(r"{}[]()^_\$&%#,.;=<>|!~'\"0x "))
        else:
            letters.insert(i, rng.choice(COMMANDS))
    return "".join(letters)


def answer(rng: random.Random, gold: str) -> str:
    """One answer: the right one, a random expression, or one garbled in one of six ways."""
    kind = rng.randrange(9)
    if kind == 0:
        return gold if rng.random() < 0.5 else mutated(rng, gold)
    if kind == 1:
        return expression(rng, rng.randint(1, 3))
    if kind <= 3:
        return mutated(rng, expression(rng, rng.randint(1, 3)))
    if kind == 4:
        return "".join(rng.choice(UNICODE + r"0123456789x+-/\{}^ ") for _ in range(rng.randint(0, 30)))
    if kind == 5:
        return rng.choice(["", "-", "0."]) + "".join(rng.choices("0123456789", k=rng.choice([1, 20, 400, 2000])))
    if kind == 6:
        opening, closing = rng.choice(
            [(r"\frac{1}{", "}"), (r"\sqrt{", "}"), ("(", ")"), (r"\text{", "}"), ("2^{", "}"), ("{", "}")]
        )
        depth = rng.choice([1, 5, 30, 500])
        return opening * depth + "7" + closing * (depth - rng.randrange(2))
    return " ".join(
        rng.choices(
            ["the", "answer", "is", "5", "or", r"\frac12", "maybe", "x=3", "$", "**", "\n"], k=rng.randint(1, 30)
        )
    )


def completion(rng: random.Random, gold: str) -> str:
    """The answer in a box, mostly, with or without a thought around it."""
    text = answer(rng, gold)
    if rng.random() < 0.9:
        text = rf"\boxed{{{text}}}"
    if rng.random() < 0.1:
        text += " and " + rf"\boxed{{{answer(rng, gold)}}}"
    return rng.choice(["", "", "", "<think>hm</think>", "hm</think>", "<think>a<think>"]) + text


def graded(count: int, seed: int, seconds: float) -> Counter[str]:
    """Grades `count` garbled completions; every property is asserted on each of them."""
    rng = random.Random(seed)
    verdicts: Counter[str] = Counter()
    took: list[float] = []
    with MathGrader(seconds=seconds) as grader:
        assert grader.grade(r"\boxed{5}", "5").verdict is Verdict.CORRECT
        for _ in range(count):
            gold = rng.choice(GOLDS)
            text = completion(rng, gold)
            start = time.monotonic()
            grade = grader.grade(text, gold)
            took.append(time.monotonic() - start)
            assert isinstance(grade, Grade)
            assert grade.verdict in Verdict, (text, gold)
            assert "worker" not in grade.detail, (text, gold, grade)  # the keeper outlives them all
            verdicts[grade.verdict] += 1
        assert sorted(took)[int(0.999 * count)] < seconds + 1.0
        assert max(took) < seconds + 10.0  # a busy machine may stall us, but nothing hangs
        assert grader.grade(r"\boxed{0.5}", r"\frac12").verdict is Verdict.CORRECT
    return verdicts


def test_three_thousand_garbled_answers_get_a_verdict_each() -> None:
    verdicts = graded(3000, seed=0, seconds=2.0)
    assert sum(verdicts.values()) == 3000
    assert verdicts["timeout"] + verdicts["error"] < 150  # the rest is scorable
    assert min(verdicts[v] for v in ("correct", "wrong", "unparsed", "truncated")) > 0  # every kind is reached


@pytest.mark.slow
@pytest.mark.timeout(36_000)
def test_a_million_garbled_answers_get_a_verdict_each() -> None:
    verdicts = graded(1_000_000, seed=1, seconds=5.0)
    assert sum(verdicts.values()) == 1_000_000
    assert verdicts["timeout"] + verdicts["error"] < 50_000


def test_text_functions_take_anything() -> None:
    rng = random.Random(2)
    for _ in range(20_000):
        text = "".join(
            rng.choices(
                ["\\boxed{", "\\boxed", "{", "}", "\\", "<think>", "</think>", "a", "\n", "\ud800"],
                k=rng.randint(0, 12),
            )
        )
        thought, part = split_thought(text)
        assert part is None or text.replace("<think>", " ").replace("</think>", " ").endswith(part)
        assert thought in text
        boxes = find_boxes(text)
        assert len(boxes) <= text.count("\\boxed")
        last = extract_boxed(text)
        assert last is None or "\\boxed" in text


def test_shares_add_up() -> None:
    grades = [Grade(Verdict.CORRECT), Grade(Verdict.CORRECT), Grade(Verdict.TIMEOUT), Grade(Verdict.UNPARSED)]
    shares = verdict_shares(grades)
    assert shares["verifier/correct"] == 0.5
    assert shares["verifier/timeout"] == shares["verifier/unparsed"] == 0.25
    assert sum(shares.values()) == 1.0
    assert len(shares) == 6
    assert verdict_shares([]) == {}
