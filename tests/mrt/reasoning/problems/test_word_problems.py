"""Word problems from rows of both shapes: equations read and found, solutions whose arithmetic is right."""

from __future__ import annotations

import re
from fractions import Fraction
from random import Random
from typing import Any

import pytest

from mrt.errors import DataError
from mrt.reasoning.problems.word_problems import (
    Operation,
    Unusable,
    WordProblem,
    infer_operation,
    numbers_of,
    parse_equation,
    read_problem,
    worked_solution,
    written,
)


def svamp(body: str, question: str, equation: str, answer: float) -> dict[str, Any]:
    return {"Body": body, "Question": question, "Equation": equation, "Answer": answer}


def test_a_row_of_svamp() -> None:
    row = svamp("Ann has 7 red cups , 3 of them old", "How many are new ?", "( 7.0 - 3.0 )", 4.0)
    problem = read_problem(row, "svamp", "here")
    assert problem.text == "Ann has 7 red cups, 3 of them old, how many are new?"
    assert (problem.answer, problem.source, list(map(str, problem.steps))) == ("4", "svamp", ["7 - 3 = 4"])
    two = read_problem(svamp("6 left, 2 new, 7 gone.", "How many?", "( ( 6.0 - 2.0 ) + 7.0 )", 11.0), "svamp", "here")
    assert list(map(str, two.steps)) == ["6 - 2 = 4", "4 + 7 = 11"]
    assert two.operands == two.numbers == (2, 6, 7)
    assert two.text == "6 left, 2 new, 7 gone. How many?"


def test_a_row_of_mawps_has_the_one_equation_that_gives_its_target() -> None:
    text = "Mike spent $ 118.54 on speakers and $ 106.33 on tires . He left 3 CD 's . In total ?"
    problem = read_problem({"input": text, "target": 224.87}, "mawps", "here")
    assert list(map(str, problem.steps)) == ["118.54 + 106.33 = 224.87"]
    assert problem.text == "Mike spent $ 118.54 on speakers and $ 106.33 on tires. He left 3 CD's. In total?"
    assert problem.operands == (Fraction("106.33"), Fraction("118.54"))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"input": "2 cups and 2 more", "target": 4.0}, "several equations"),
        ({"input": "5 cups and 2 more", "target": 4.0}, "no equation of one step"),
        ({"input": "0.333 foot and 1 foot", "target": 1.333}, "more than 2 decimals"),
        (svamp("5 cups", "How many?", "( 5.0 / 3.0 )", 1.6667), "does not give its answer"),
        (svamp("5 cups", "How many?", "5.0", 5.0), "not one to 2 steps"),
        (svamp("5 cups", "How many?", "( 5.0 / 0.0 )", 5.0), "divides by zero"),
        (svamp("5 cups", "How many?", "__import__('os')", 5.0), "cannot be read"),
        (svamp("5 cups", "How many?", "( 5.0 -", 5.0), "cannot be read"),
    ],
)
def test_what_makes_no_problem_says_why(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        read_problem(row, "any", "here")


def test_a_row_of_another_shape_is_a_mistake() -> None:
    with pytest.raises(DataError, match=r"here: the columns question are neither Body, .* nor input, target"):
        read_problem({"question": "1 + 1?"}, "any", "here")
    with pytest.raises(DataError, match="here: the answer 'four' is no number"):
        read_problem({"input": "2 cups and 3 more", "target": "four"}, "any", "here")


def test_numbers_as_they_are_written() -> None:
    assert numbers_of("1,339 eggs, $.50 and 3.5 cups in 1990.") == [1339, Fraction(1, 2), Fraction(7, 2), 1990]
    assert [written(Fraction(x)) for x in ("3", "-2.50", "0.25")] == ["3", "-2.5", "0.25"]
    with pytest.raises(Unusable, match="decimals"):
        written(Fraction(1, 3))
    assert infer_operation([Fraction(3), Fraction(12)], Fraction(4)) == Operation(Fraction(12), "/", Fraction(3))


def holds(equation: str) -> bool:
    left, sign, right, value = re.fullmatch(r"(?:Check: )?(-?[\d.]+) (.) (-?[\d.]+) = (-?[\d.]+?)\.", equation).groups()  # type: ignore[union-attr]
    return Operation(Fraction(left), sign, Fraction(right)).value == Fraction(value)


def test_worked_solutions_are_sentences_whose_equations_hold() -> None:
    forms = set()
    for equation in ("( 7.0 - 3.0 )", "( ( 6.0 - 2.0 ) + 7.0 )", "( 2.5 * 4.0 )", "( 9.0 / 2.0 )", "( 5.0 - 5.0 )"):
        problem = WordProblem("?", parse_equation(equation), "any")
        for seed in range(20):
            first, *rest = worked_solution(problem, Random(seed)).split("\n\n")
            planned = first.startswith("We need the ")
            sentences = rest if planned else [first, *rest]
            assert all(map(holds, sentences)), sentences
            assert f" = {problem.answer}." in "".join(sentences)
            forms.add((equation, planned, "Check" in sentences[-1]))
    checked = {(equation, check) for equation, _, check in forms}
    assert ("( 5.0 - 5.0 )", True) not in checked, "0 + 5 = 5 checks nothing that was divided"
    assert {(planned, check) for equation, planned, check in forms if equation == "( 7.0 - 3.0 )"} == {
        (True, False),
        (False, True),
        (True, True),
    }


@pytest.mark.parametrize(
    ("left", "sign", "right", "steps"),
    [
        (55, "-", 29, ["55 - 20 = 35", "35 - 9 = 26"]),
        (205, "+", 305, ["205 + 300 = 505", "505 + 5 = 510"]),
        (23, "*", 14, ["23 * 10 = 230", "23 * 4 = 92", "230 + 92 = 322"]),
        (14, "*", 9, ["9 * 10 = 90", "9 * 4 = 36", "90 + 36 = 126"]),
        (12, "-", 45, ["12 - 40 = -28", "-28 - 5 = -33"]),
        (3, "+", 45, ["3 + 45 = 48"]),
        (21, "+", 20, ["21 + 20 = 41"]),
        (84, "/", 12, ["84 / 12 = 7"]),
        (2000, "-", 45, ["2000 - 45 = 1955"]),
        (20, "-", 1.5, ["20 - 1.5 = 18.5"]),
    ],
)
def test_numbers_of_several_digits_are_worked_by_place_value(
    left: float, sign: str, right: float, steps: list[str]
) -> None:
    step = Operation(Fraction(left), sign, Fraction(right))
    assert [str(part) for part in step.by_place_value()] == steps
    said = worked_solution(WordProblem("?", (step,), "any"), Random(0))
    assert "".join(f"\n\n{part}." for part in steps) in "\n\n" + said
    assert step.by_place_value()[-1].value == step.value
