"""Exact match with references, and multiple choice."""

import json

import pytest

from mrt.errors import ConfigError, DataError
from mrt.reasoning.grading.verdict import Verdict
from mrt.reasoning.problems import load_problems, to_dataset, validate
from mrt.reasoning.problems.text_answers import letter_of, plain


def written(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


CAPITALS = [
    {"question": "Capital of France?", "answer": "Paris"},
    {"question": "Capital of the Netherlands?", "answer": ["Amsterdam", "The Hague"]},
    {"question": "How many legs has a spider?", "answer": 8},
]


def test_one_of_several_references_is_enough(tmp_path):
    exact = load_problems("exact", path=written(tmp_path, CAPITALS), test=0.0)
    france, holland, spider = sorted(exact.problems("train"), key=lambda one: one.data["where"][-1])
    assert validate(exact, "train") == 3
    assert holland.solution == "Amsterdam"
    assert exact.solutions(holland) == ["Amsterdam", "The Hague"]
    for answer, right in ((" the  hague. ", True), ("AMSTERDAM", True), ("Hague", False), ("Paris", False)):
        assert exact.grade_answer(holland, answer).reward == float(right), answer
    assert exact.grade_answer(spider, "８").reward == 1.0  # full width, as NFKC reads it
    assert exact.grade_answer(france, " . ").verdict is Verdict.UNPARSED
    assert exact.grade(france, "<think>hm</think>It is \\boxed{Paris}").reward == 1.0
    assert exact.grade(france, "<think>hm").verdict is Verdict.TRUNCATED
    assert exact.grade(france, "<think>hm</think>Paris").verdict is Verdict.UNPARSED
    row = to_dataset(exact, "train").filter(lambda one: one["key"] == holland.key)[0]
    assert row["solutions"] == ["Amsterdam", "The Hague"]


def test_a_contradiction_and_an_unknown_column_are_told(tmp_path):
    twice = [*CAPITALS, {"question": " Capital of  France?", "answer": "Lyon"}]
    with pytest.raises(DataError, match=r"row 4: the same problem as in .*row 1 with another answer"):
        load_problems("exact", path=written(tmp_path, twice))
    again = [*CAPITALS, {"question": "Capital of  France?", "answer": " paris."}]
    assert len(load_problems("exact", path=written(tmp_path, again), test=0.0).problems("train")) == 3
    with pytest.raises(DataError, match="row 1, column 'answer': null"):
        load_problems("exact", path=written(tmp_path, [{"question": "?", "answer": None}]))
    with pytest.raises(ConfigError, match="needs path"):
        load_problems("exact")
    with pytest.raises(ConfigError, match="must hold"):
        load_problems("exact", path=written(tmp_path, CAPITALS), prompt="answer it")


ANIMALS = [
    {"question": "Which one flies?", "options": ["A dog", "A bat", "A cat"], "answer": "B"},
    {"question": "Which one barks?", "options": ["A dog", "A bat", "A cat"], "answer": 0},
    {"question": "Which one purrs?", "options": ["A dog", "A bat", "A cat"], "answer": "a cat"},
]


def test_an_option_by_its_letter_or_its_text(tmp_path):
    choice = load_problems("choice", path=written(tmp_path, ANIMALS), test=0.0)
    flies, barks, purrs = sorted(choice.problems("train"), key=lambda one: one.data["where"][-1])
    assert validate(choice, "train") == 3
    assert [one.solution for one in (flies, barks, purrs)] == ["B", "A", "C"]
    assert "Which one flies?\n\nA. A dog\nB. A bat\nC. A cat\n" in flies.prompt
    assert choice.solutions(flies) == ["B"]
    for answer in ("B", "b", "(B)", "B.", "B) a bat", "a bat", "A BAT."):
        assert choice.grade_answer(flies, answer).verdict is Verdict.CORRECT, answer
    for answer in ("A", "C. A cat", "a dog"):
        assert choice.grade_answer(flies, answer).verdict is Verdict.WRONG, answer
    for answer in ("B. A cat", "D", "A or B", "", "bat man"):
        assert choice.grade_answer(flies, answer).verdict is Verdict.UNPARSED, answer
    assert letter_of("A bat", ["x", "A bat"]) == "B"
    assert plain(" A  Bat. ") == "a bat"


def test_the_same_options_in_another_order_are_the_same_problem(tmp_path):
    turned = {"question": "Which one flies?", "options": ["A bat", "A cat", "A dog"], "answer": "A"}
    choice = load_problems("choice", path=written(tmp_path, [ANIMALS[0], turned]), test=0.0)
    assert len(choice.problems("train")) == 1
    wrong = {**turned, "answer": "B"}
    with pytest.raises(DataError, match="another answer"):
        load_problems("choice", path=written(tmp_path, [ANIMALS[0], wrong]))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"options": ["x"], "answer": "A"}, "2 to 26 options"),
        ({"options": None, "answer": "A"}, "2 to 26 options"),
        ({"options": ["x", "X."], "answer": "A"}, "read alike"),
        ({"options": ["B", "A"], "answer": "A"}, "the letter of another one"),
        ({"options": ["x", "y"], "answer": "z"}, "names none of the 2 options"),
        ({"options": ["x", "y"], "answer": 2}, "names none of the 2 options"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, row, told):
    with pytest.raises(DataError, match=told):
        load_problems("choice", path=written(tmp_path, [{"question": "?", **row}]))


def test_files_with_alternative_answers(tmp_path):
    path = written(
        tmp_path, [{"problem": "A root of x^2 = 4?", "answer": ["2", "-2"]}, {"problem": "1/2?", "answer": "0.5"}]
    )
    roots, half = load_problems("files", path=path, references="any", test=0.0).problems("train")
    files = load_problems("files", path=path, references="any", test=0.0)
    if "1/2" in roots.prompt:
        roots, half = half, roots
    assert roots.data["references"] == ["2", "-2"]
    assert "references" not in half.data
    assert [files.grade_answer(roots, one).reward for one in ("-2", "2", "3")] == [1.0, 1.0, 0.0]
    texts = [
        (roots, "<think></think>\\boxed{-2}"),
        (half, "<think></think>\\boxed{1/2}"),
        (roots, "<think></think>\\boxed{5}"),
    ]
    assert [grade.reward for grade in files.grade_many(texts)] == [1.0, 1.0, 0.0]
    assert files.grade(roots, texts[0][1]).reward == 1.0
    both = load_problems("files", path=path, test=0.0)
    assert both.grade_answer(next(one for one in both.problems("train") if "root" in one.prompt), "-2").reward == 0.0
    with pytest.raises(ConfigError, match="references must be"):
        load_problems("files", path=path, references="some")
