"""What an answer is and what it equals: pairs of every kind, several boxes, published files, the cost of a grade."""

import json
import time
from collections.abc import Iterator

import pytest

from mrt.errors import ConfigError
from mrt.reasoning.grading.form import read
from mrt.reasoning.grading.math_grader import MathGrader
from mrt.reasoning.grading.units import scale_between, unit_of
from mrt.reasoning.grading.verdict import Verdict, answer_boxes, content_of, split_thought
from tests.support.kind_pairs import RIGHT, WRONG
from tests.support.shared_folder import lines, shared

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    with MathGrader(seconds=10.0) as grader:
        yield grader


def test_right_pairs_of_every_kind(grader: MathGrader) -> None:
    assert len(RIGHT) >= 120
    graded = [(gold, answer, grader.grade_answer(answer, gold)) for gold, answer in RIGHT]
    assert [found for found in graded if found[2].verdict is not Verdict.CORRECT] == []


def test_wrong_pairs_of_every_kind(grader: MathGrader) -> None:
    assert len(WRONG) >= 70
    graded = [(gold, answer, grader.grade_answer(answer, gold)) for gold, answer in WRONG]
    assert [found for found in graded if found[2].reward != 0.0] == []


BOXES = [
    (r"The area is \boxed{\frac12}, that is \boxed{0.5}.", r"\frac12", "correct", "correct"),
    (r"\boxed{x=5}. So the final answer is \boxed{5}", "5", "correct", "correct"),
    (r"We need $4+\boxed{\phantom{2}}=8$. Answer: \boxed{4}", "4", "correct", "correct"),
    (r"Solve $\boxed{?}+2=5$; the box holds \boxed{3}.", "3", "correct", "correct"),
    (r"The roots are \boxed{1} and \boxed{2}.", "1,2", "correct", "correct"),
    (r"Either \boxed{1} or \boxed{2}.", "1", "wrong", "wrong"),
    (r"First \boxed{5}, but that is wrong; correcting, \boxed{7}.", "7", "correct", "wrong"),
    (r"First \boxed{7}, but that is wrong; correcting, \boxed{5}.", "7", "wrong", "wrong"),
    ("Step one gives \\boxed{12}.\n\nStep two gives \\boxed{15}.", "15", "correct", "wrong"),
    ("Step one gives \\boxed{12}.\n\nStep two gives \\boxed{15}.", "12", "wrong", "wrong"),
    (r"<think>a</think>The answer is \boxed{3}.</think>", "3", "correct", "correct"),
    (r"\boxed{\text{(C)}}", "C", "correct", "correct"),
    (r"\boxed{\square} \boxed{\text{ }} \boxed{}", "3", "unparsed", "unparsed"),
]


@pytest.mark.parametrize(("text", "gold", "last", "every"), BOXES)
def test_several_boxes(grader: MathGrader, text: str, gold: str, last: str, every: str) -> None:
    assert grader.grade(text, gold).verdict.value == last
    grader.boxes = "all"
    try:
        assert grader.grade(text, gold).verdict.value == every
    finally:
        grader.boxes = "last"


def test_boxes_of_the_last_sentence_and_of_a_gold() -> None:
    assert answer_boxes(r"\boxed{1}. Then \boxed{2} and \boxed{ 3 }, \boxed{3}") == (["2", "3"], ["1"])
    assert content_of(r"so \boxed{1}, then \boxed{2}") == "1, 2"  # both, not silently the last
    assert content_of("7") == "7"
    with pytest.raises(ConfigError, match="boxes must be one of last, all"):
        MathGrader(boxes="first")


def test_the_first_close_ends_the_thought_and_further_tags_are_blanks() -> None:
    assert split_thought("<think>a</think>b</think> \n") == ("a", "b  \n")
    assert split_thought("a</think>b</think>c") == ("a", "b c")
    assert split_thought("a</think>") == ("a", "")
    start = time.monotonic()
    split_thought("</think>" * 120_000)
    assert time.monotonic() - start < 2.0


def test_units_have_sizes() -> None:
    def scale(gold: str, answer: str) -> str | None:
        return scale_between(read(gold, 100, True).unit, read(answer, 100, True).unit)

    assert scale(r"1 \text{ mph}", r"1 \text{ miles per hour}") == ""
    assert scale(r"1 \text{ m}", r"1 \text{ km}") == r"\cdot 1000"
    assert scale(r"1 \text{ rad}", r"1 \text{ degree}") == r"\cdot \frac{1}{180} \cdot \pi"
    assert scale(r"1 \text{ N m}", r"1 \text{ J}") == ""
    assert scale(r"1 \text{ m}", r"1 \text{ s}") is None
    assert scale("1", r"1 \text{ s}") == ""
    assert unit_of("K") != unit_of("k")
    assert unit_of("k") is None


@pytest.mark.data
def test_shared_cases(grader: MathGrader) -> None:
    wrong = []
    for path in sorted(shared("cases", "grading").glob("*.jsonl")):
        for row in lines(path):
            grade = grader.grade(row["text"], row["gold"]) if "text" in row else None
            grade = grade or grader.grade_answer(row["answer"], row["gold"])
            if grade.verdict.value != row["right"].split()[0]:
                wrong.append((path.name, row, grade))
    assert wrong == []


GOLDS = {"gsm8k_test": "answer", "math500": "answer", "aime24": "answer", "amc23": "answer", "minerva_math": "solution"}
GOLDS |= {"olympiadbench": "final_answer", "svamp": "Answer", "mawps": "target"}


@pytest.mark.data
@pytest.mark.parametrize("name", [*GOLDS, pytest.param("college_math", marks=pytest.mark.slow)])
def test_published_golds_can_be_used(grader: MathGrader, name: str) -> None:
    rows = lines(shared("data", f"{name}.jsonl"))
    unusable = []
    for row in rows if name in ("minerva_math", "college_math") else rows[:300]:
        value = row[GOLDS.get(name, "answer")]
        gold = content_of(str(value[0] if isinstance(value, list) else value).rpartition("####")[2].strip())
        grade = grader.grade_answer(gold, gold)
        if grade.verdict is not Verdict.CORRECT:
            unusable.append((gold, grade.detail))
    assert len(unusable) <= 0.005 * len(rows), unusable[:10]


@pytest.mark.data
def test_solutions_that_another_model_wrote(grader: MathGrader) -> None:
    """Verdicts as those of the published grader, but for the one row where that is wrong (10{,}000 is 10000)."""
    differ = []
    for row in lines(shared("data", "math_cot_100.jsonl")):
        for code, score in zip(row["code"], row["score"], strict=True):
            if (grader.grade(code, row["gt"]).verdict is Verdict.CORRECT) != bool(score):
                differ.append((row["gt"], code[-60:]))
    assert [gold for gold, _ in differ] == ["10{,}000"]


def test_a_grade_of_one_line_costs_a_millisecond() -> None:
    """CPU of this process for reading, and wall time of a group whose answers repeat, as in training."""
    golds = [str(n) for n in range(200)] + [rf"\frac{{{n}}}{{7}}" for n in range(1, 100)]
    start = time.process_time()
    for gold in golds:
        read(gold, 20_000)
    assert (time.process_time() - start) / len(golds) < 0.001
    with MathGrader() as grader:
        grader.grade(r"\boxed{1}", "1")
        start = time.process_time()
        graded = grader.grade_many([(rf"so \boxed{{{g}}}", g) for g in golds for _ in range(8)])
        assert (time.process_time() - start) / len(graded) < 0.001
    assert all(grade.verdict is Verdict.CORRECT for grade in graded)


def test_remembered_grades_are_those_of_the_pair(grader: MathGrader) -> None:
    for _ in range(2):
        assert grader.grade(r"\boxed{5}", "5").verdict is Verdict.CORRECT
        assert grader.grade(r"\boxed{5}", "6").verdict is Verdict.WRONG
        assert grader.grade(r"\boxed{5}", "1/0").verdict is Verdict.ERROR


def test_golds_that_are_compared_as_written_say_so(grader: MathGrader) -> None:
    gold = r"\bigcup_{k=-\infty}^{\infty} (2k\pi, (2k+2)\pi)"
    assert grader.grade_answer(gold.replace(" ", ""), gold).verdict is Verdict.CORRECT
    other = grader.grade_answer(gold.replace("2k+2", "2k+3"), gold)
    assert (other.verdict, other.detail) == (Verdict.WRONG, "compared as it is written")
    assert json.dumps(grader.grade_answer("at least 5 cm", r"at least $5$ cm").verdict) == '"correct"'
