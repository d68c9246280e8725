"""Countdown: the grammar, its solver against brute force, the verdicts, and splits that share no key."""

import ast
import itertools
import json
import random
import time
from fractions import Fraction

import pytest

from mrt.errors import ConfigError, DataError
from mrt.reasoning.grading.verdict import Grade, Verdict
from mrt.reasoning.problems import SPLITS, Countdown, Problem, load_problems, to_dataset, validate
from mrt.reasoning.problems.countdown import SHARES, key_of, reachable
from mrt.reasoning.problems.expressions import NotAnExpression, draw_attempt, evaluate, expressions, plain


@pytest.fixture(scope="module")
def countdown() -> Countdown:
    return Countdown()


def posed(numbers: list[int], target: int, operations: str = "+-*") -> Problem:
    data = {"numbers": sorted(numbers), "target": target, "operations": operations}
    return Problem(key_of(numbers, target, operations), "", "", data)


def python_value(text: str) -> Fraction | None:
    """The value by Python's own parser, which knows nothing of the grammar here; None for a division by zero."""

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant):
            return Fraction(node.value)
        assert isinstance(node, ast.BinOp)
        left, right = value(node.left), value(node.right)
        if isinstance(node.op, ast.Div):
            return left / right
        return {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right}[type(node.op)]

    try:
        return value(ast.parse(text, mode="eval").body)
    except ZeroDivisionError:
        return None


def scribbles(numbers: list[int], operations: str) -> set[str]:
    """Every way to write the numbers with operations between them and up to two parentheses on either side of each."""
    n = len(numbers)
    found = set()
    for order in set(itertools.permutations(numbers)):
        for signs in itertools.product(operations, repeat=n - 1):
            for opens in itertools.product(("", "(", "(("), repeat=n):
                for closes in itertools.product(("", ")", "))"), repeat=n):
                    parts = [f"{o}{x}{c}" for o, x, c in zip(opens, order, closes, strict=True)]
                    found.add("".join(itertools.chain(*zip(parts, (*signs, ""), strict=True))))
    return found


def test_the_worked_example() -> None:
    expected = ["(3*5)+7", "(5*3)+7", "3*5+7", "5*3+7", "7+(3*5)", "7+(5*3)", "7+3*5", "7+5*3"]
    assert expressions([7, 3, 5], "+-*", 22) == expected


@pytest.mark.parametrize(
    ("numbers", "target", "operations"),
    [
        ([3, 5, 7], 22, "+-*"),
        ([1, 2, 3], 6, "+-*/"),
        ([2, 2, 4], 4, "+-*/"),
        ([1, 1, 1], 1, "+-*/"),
        ([3, 8, 8], 3, "/*"),
        ([9, 4], 5, "+-*/"),
        ([2, 5, 9], 16, "+-"),
    ],
)
def test_solutions_are_exactly_what_the_grader_accepts(numbers: list[int], target: int, operations: str) -> None:
    problem = posed(numbers, target, operations)
    problem_set = Countdown(high=2, train=0, warmstart=0, test=0)
    written = scribbles(numbers, operations)
    accepted = {text for text in written if problem_set.grade_answer(problem, text).verdict is Verdict.CORRECT}
    assert accepted
    assert problem_set.solutions(problem) == sorted(accepted)
    for text in accepted:
        assert python_value(text) == target


@pytest.mark.parametrize(("numbers", "count"), [((4, 9), 6), ((4, 9, 23), 162), ((4, 9, 23, 57), 7128)])
def test_number_of_strings_of_the_grammar(numbers: tuple[int, ...], count: int) -> None:
    # Orders of the numbers x signs x bracketings (the little Schroeder numbers 1, 3, 11): 2*3*1, 6*9*3, 24*27*11.
    texts = all_texts(numbers)
    assert len(texts) == len(set(texts)) == count
    chosen = [evaluate(text)[1] for text in texts[:: max(1, count // 20)]]
    values = [python_value(text) for text in texts]
    for value in chosen:
        assert expressions(numbers, "+-*", value) == sorted(t for t, v in zip(texts, values, strict=True) if v == value)


def all_texts(numbers: tuple[int, ...]) -> list[str]:
    """All strings of the grammar over + - * by its rules, top down: a chain of parts, a longer part in parentheses."""

    def chains(order: tuple[int, ...]) -> list[str]:
        found = []
        for size in range(2, len(order) + 1):
            for cuts in itertools.combinations(range(1, len(order)), size - 1):
                bounds = [0, *cuts, len(order)]
                parts = [order[a:b] for a, b in itertools.pairwise(bounds)]
                written = [[str(p[0])] if len(p) == 1 else [f"({c})" for c in chains(p)] for p in parts]
                for texts in itertools.product(*written):
                    for signs in itertools.product("+-*", repeat=size - 1):
                        found.append("".join(itertools.chain(*zip(texts, (*signs, ""), strict=True))))
        return found

    return [text for order in itertools.permutations(numbers) for text in chains(order)]


@pytest.mark.parametrize(
    ("text", "value"),
    [("7+3*5", 22), ("(7+3)*5", 50), ("7-3-5", -1), ("7-(3-5)", 9), ("7*3/5", Fraction(21, 5)), (" 7 +\t3\n* 5 ", 22)],
)
def test_values(text: str, value: Fraction) -> None:
    assert evaluate(text) == ([int(d) for d in text if d.isdigit()], value)


@pytest.mark.parametrize(
    ("expression", "written"),
    [
        ("(3*5)+7", "3*5+7"),
        ("1+(12+12)", "1+12+12"),
        ("20+(9-4)", "20+9-4"),
        ("(12-3)-4", "12-3-4"),
        ("9-(2+4)", "9-(2+4)"),
        ("9-(4-2)", "9-(4-2)"),
        ("2*(6/3)", "2*6/3"),
        ("8/(4*2)", "8/(4*2)"),
        ("3*(4+5)", "3*(4+5)"),
        ("(8-2)*(3+1)", "(8-2)*(3+1)"),
    ],
)
def test_parentheses_that_change_nothing(expression: str, written: str) -> None:
    assert plain(expression) == written
    assert evaluate(written) == evaluate(expression)


def test_plain_expressions_keep_their_value() -> None:
    rng = random.Random(0)
    for _ in range(300):
        attempt = draw_attempt([rng.randint(1, 12) for _ in range(5)], "+-*/", 99, rng)
        if attempt is not None:
            assert evaluate(plain(attempt.expression))[1] == attempt.value
            assert plain(plain(attempt.expression)) == plain(attempt.expression)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("((3*5)+7)", "around the whole"),
        ("(3*5+7)", "around the whole"),
        ("(3)*5+7", "around a single number"),
        ("((3*5))+7", "doubled"),
        ("3*5+7=22", "found '='"),
        ("3 5+7", "found '5'"),
        ("3*5+07", "leading zero"),
        ("-3+5*7", "found '-'"),
        ("3**5+7", "found '*'"),
        ("3*5+", "found the end"),
        ("3*(5+7", "found the end"),
        ("3*5+7)", "found ')'"),
        ("", "found the end"),
        ("()", "found ')'"),
        ("3x5+7", "found 'x'"),
        ("3²+7", "found '²'"),
        ("٣*5+7", "found '٣'"),
        ("3.0*5+7", "found '.'"),
        ("__import__('os')", "found '_'"),
        ("3*7/5", "'/' is not among the allowed + - *"),
        ("(" * 40 + "3*5" + ")" * 40, "32 parentheses inside each other"),
        ("3+" * 600 + "5", "more than 1000"),
    ],
)
def test_outside_the_grammar_is_unparsed_and_says_why(countdown: Countdown, text: str, reason: str) -> None:
    grade = countdown.grade_answer(posed([3, 5, 7], 22), text)
    assert grade.verdict is Verdict.UNPARSED
    assert reason in grade.detail
    assert grade.reward == 0.0


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("3*5-7", "equals 8, not 22"),
        ("3*5+8", "uses [3, 5, 8] where [3, 5, 7] are given"),
        ("3*5", "uses [3, 5]"),
        ("3*5+7*1", "uses [1, 3, 5, 7]"),
        ("3*3+5+7", "uses [3, 3, 5, 7]"),
        ("22", "uses [22]"),
    ],
)
def test_wrong(countdown: Countdown, text: str, detail: str) -> None:
    grade = countdown.grade_answer(posed([3, 5, 7], 22), text)
    assert grade.verdict is Verdict.WRONG
    assert detail in grade.detail


def test_division_is_exact_and_by_zero_is_wrong(countdown: Countdown) -> None:
    thirds = posed([2, 3, 6], 4, "+-*/")
    assert countdown.grade_answer(thirds, "2/3*6").verdict is Verdict.CORRECT
    assert countdown.grade_answer(thirds, "6/(2-3)").verdict is Verdict.WRONG
    zero = countdown.grade_answer(posed([3, 3, 6], 4, "+-*/"), "6/(3-3)")
    assert (zero.verdict, zero.detail) == (Verdict.WRONG, "divides by zero")


@pytest.mark.parametrize(
    ("text", "opened", "verdict"),
    [
        ("3*5=15</think>\\boxed{3*5+7}", None, Verdict.CORRECT),
        ("<think>3*5=15</think>\\boxed{3*5+7}", None, Verdict.CORRECT),
        ("3*5=15</think>\\boxed{3*5+7}", True, Verdict.CORRECT),
        ("\\boxed{3*5+7}", None, Verdict.CORRECT),
        ("\\boxed{3*5+7}", False, Verdict.CORRECT),
        ("\\boxed{3*5+7}", True, Verdict.TRUNCATED),  # the box stands inside a thought
        ("<think>\\boxed{3*5+7}", None, Verdict.TRUNCATED),
        ("3*5=15", None, Verdict.TRUNCATED),
        ("3*5=15", False, Verdict.UNPARSED),
        ("", True, Verdict.TRUNCATED),
        ("</think>", None, Verdict.UNPARSED),
        ("</think>3*5+7", None, Verdict.UNPARSED),
        ("\\boxed{3*5+7}</think>", None, Verdict.UNPARSED),
        ("</think>\\boxed{3*5+7", None, Verdict.UNPARSED),
        ("</think>\\boxed{1}</think>\\boxed{3*5+7}", None, Verdict.CORRECT),
        ("</think>\\boxed{3*5+7} no, \\boxed{3+5+7}", None, Verdict.WRONG),
        ("</think>\\boxed{}", None, Verdict.UNPARSED),
    ],
)
def test_verdicts_on_completions(countdown: Countdown, text: str, opened: bool | None, verdict: Verdict) -> None:
    assert countdown.grade(posed([3, 5, 7], 22), text, opened).verdict is verdict


@pytest.mark.parametrize(
    "piece", ["(", ")", "1+", "9", " ", "\\boxed{", "{", "}", "</think>", "</think>\\boxed{1+", "é"]
)
def test_a_million_characters_are_answered_fast(countdown: Countdown, piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    problem = posed([3, 5, 7], 22)
    start = time.process_time()
    grades = [countdown.grade(problem, text), countdown.grade_answer(problem, text)]
    assert time.process_time() - start < 3
    assert {grade.reward for grade in grades} == {0.0}
    assert all(len(grade.extracted or "") < 1000 for grade in grades)


def test_splits_share_no_key_and_every_problem_is_solvable(countdown: Countdown) -> None:
    keys = {split: [p.key for p in countdown.problems(split)] for split in SPLITS}
    assert {split: len(keys[split]) for split in SPLITS} == countdown.sizes
    assert countdown.sizes["test"] >= 1000
    everything = [key for split in SPLITS for key in keys[split]]
    assert len(set(everything)) == len(everything) == sum(countdown.sizes.values())
    assert sum(validate(countdown, split) for split in SPLITS) == len(everything)
    for problem in countdown.problems("test")[:100]:
        assert problem.solution in countdown.solutions(problem)
        numbers, target = problem.data["numbers"], problem.data["target"]
        assert problem.key == f"countdown:{','.join(map(str, numbers))}->{target}:+-*"
        assert problem.prompt == f"{' '.join(map(str, numbers))}->{target}"
        assert numbers == sorted(numbers)
        assert 1 <= target <= 99


def test_the_key_space_holds_twenty_thousand(countdown: Countdown) -> None:
    found = countdown._enumerate()
    assert sum(map(len, found.values())) >= 20_000
    for split, share in SHARES.items():
        assert len(found[split]) / sum(map(len, found.values())) == pytest.approx(share, abs=0.02)


def test_deterministic_by_seed() -> None:
    sizes = {"high": 12, "train": 500, "warmstart": 100, "test": 100}
    once, again, other = Countdown(**sizes), Countdown(**sizes), Countdown(**sizes, seed=1)
    for split in SPLITS:
        assert once.problems(split) == again.problems(split)
        assert once.problems(split) != other.problems(split)


def test_a_key_keeps_its_split_whatever_the_dials() -> None:
    small = Countdown(high=12, train=2000, warmstart=800, test=300, seed=3)
    held_out = {p.key for p in small.problems("test")}
    wide = Countdown(high=80, train=1500, warmstart=500, test=200)  # drawn, not enumerated
    assert not held_out & {p.key for split in ("train", "warmstart") for p in wide.problems(split)}


def test_reachable_by_hand() -> None:
    # 2 and 3: 2+3, 3-2 (2-3 is negative), 2*3; no other.
    assert reachable((2, 3), "+-*", 99) == {5: "2+3", 1: "3-2", 6: "2*3"}
    # 1, 2, 50, by the first two that are combined. 50*2 exceeds 99 and drops out with everything that builds on it.
    # {1,2} -> 3, 1, 2: with 50 they give 53, 47; 51, 49, 50; 52, 48. {1,50} -> 51, 49, 50: with 2 they give 53, 49;
    # 51, 47, 98; 52, 48. {2,50} -> 52, 48: with 1 they give 53, 51, 52; 49, 47, 48.
    values = reachable((1, 2, 50), "+-*", 99)
    assert set(values) == {47, 48, 49, 50, 51, 52, 53, 98}
    for value, text in values.items():
        assert python_value(text) == value


def test_too_narrow_dials_say_how_many_keys_there_are() -> None:
    with pytest.raises(ConfigError, match=r"3986 keys found with numbers=3, high=12.*'train'.*Widen 'high'"):
        Countdown(high=12)


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ({"numbers": 7}, "numbers must be a whole number from 2 to 6"),
        ({"numbers": True}, "numbers must be"),
        ({"high": 0}, "high must be"),
        ({"target_high": 1.5}, "target_high must be"),
        ({"operations": "+x"}, "operations must be some of"),
        ({"operations": ""}, "operations must be some of"),
        ({"operations": ["+"]}, "operations must be some of"),
        ({"train": -1}, "train must be"),
        ({"seed": "a"}, "seed must be"),
        ({"prompt": "say something"}, "prompt must be"),
        ({"hihg": 12}, "did you mean 'high'"),
    ],
)
def test_bad_dials(dials: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_problems("countdown", **dials)


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match="did you mean 'countdown'"):
        load_problems("cuontdown")
    with pytest.raises(ConfigError, match="no split 'validation'"):
        Countdown(high=12, train=1, warmstart=1, test=1).problems("validation")


@pytest.mark.parametrize("numbers", [2, 4, 5, 6])
def test_other_numbers_of_numbers(numbers: int) -> None:
    dials = {"numbers": numbers, "high": 60, "operations": "/*-+", "train": 40, "warmstart": 20, "test": 20}
    problem_set = load_problems("countdown", **dials, target_high=300)
    assert [validate(problem_set, split) for split in SPLITS] == [40, 20, 20]
    problem = problem_set.problems("test")[0]
    assert problem.key.endswith(":+-*/")
    assert problem_set.solutions(problem) == [] if numbers == 6 else problem.solution in problem_set.solutions(problem)


def test_prompts_for_large_models() -> None:
    sizes = {"high": 12, "train": 1, "warmstart": 1, "test": 1}
    words = Countdown(**sizes, prompt="words").problems("test")[0]
    numbers = ", ".join(map(str, words.data["numbers"]))
    assert f"the numbers {numbers} exactly once, with the operations + - *" in words.prompt
    assert "\\boxed{}" in words.prompt
    own = Countdown(**sizes, prompt="{target} from {numbers}").problems("test")[0]
    assert own.prompt == f"{own.data['target']} from {numbers}"
    short, asked = (Countdown(**sizes, prompt=one).problems("test")[0] for one in ("short", "{numbers}->{target},60"))
    assert asked.prompt == f"{short.prompt},60"


def test_dataset_columns(countdown: Countdown) -> None:
    rows = to_dataset(countdown, "test", limit=5)
    assert rows.column_names == ["prompt", "key", "solution", "solutions", "data"]
    for row, problem in zip(rows, countdown.problems("test"), strict=False):
        assert row["prompt"] == [{"role": "user", "content": problem.prompt}]
        assert (row["key"], row["solution"]) == (problem.key, problem.solution)
        assert row["solutions"] == countdown.solutions(problem)
        assert json.loads(row["data"]) == problem.data
    assert len(to_dataset(countdown, "test", limit=0)) == 0


class OneWrongGold:
    name = "broken"

    def problems(self, split: str) -> list[Problem]:
        data = {"numbers": [3, 5, 7], "target": 22, "operations": "+-*"}
        return [Problem("a", "", "3*5+7", data), Problem("b", "", "3*5-7", data)]

    def grade(self, problem: Problem, text: str, opened: bool | None = None) -> Grade:
        raise AssertionError("not used")

    def grade_answer(self, problem: Problem, answer: str) -> Grade:
        return Countdown(train=0, warmstart=0, test=0, high=2).grade_answer(problem, answer)

    def solutions(self, problem: Problem) -> list[str]:
        return []


def test_validate_names_the_row() -> None:
    with pytest.raises(DataError, match=r"broken: row 2 of split 'test': the gold answer '3\*5-7' grades wrong"):
        validate(OneWrongGold(), "test")


def test_evaluate_raises_its_own_error_only() -> None:
    with pytest.raises(NotAnExpression):
        evaluate("1" * 5000)
    numbers, value = evaluate("1" * 900)
    assert numbers == [value]
