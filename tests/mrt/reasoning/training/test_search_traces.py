"""Search traces: right arithmetic, right marks, honest answers."""

import random
import re
from dataclasses import replace

import pytest

from mrt.errors import ConfigError
from mrt.reasoning.grading.verdict import Verdict
from mrt.reasoning.problems import Countdown, Problem
from mrt.reasoning.problems.expressions import draw_attempt, evaluate, plain, step
from mrt.reasoning.training.search_traces import WORDS, search_trace, search_traces

pytestmark = pytest.mark.training

STEP = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")


@pytest.fixture(scope="module")
def countdown() -> Countdown:
    return Countdown(high=12, train=10, warmstart=400, test=10)


def attempts_of(thought: str) -> list[tuple[str, int, str]]:
    """(steps, distance to the target, mark) of each attempt."""
    parts = [part.partition("~") for part in thought.split("\n\nWait")] if thought else []
    return [(steps, int(rest[:-1]), rest[-1]) for steps, _, rest in parts]


def test_every_step_is_right_and_every_mark(countdown: Countdown) -> None:
    for problem, trace in search_traces(countdown, 400, (0, 6)):
        parts = attempts_of(trace.thought)
        assert len(parts) == trace.attempts
        for position, (steps, distance, mark) in enumerate(parts):
            pool = list(problem.data["numbers"])
            for text in steps.split(","):
                match = STEP.fullmatch(text)
                assert match
                a, sign, b, result = match.groups()
                assert step(sign, int(a), int(b), 99) == int(result)
                pool.remove(int(a))
                pool.remove(int(b))
                pool.append(int(result))
            assert len(pool) == 1
            assert distance == abs(pool[0] - problem.data["target"])
            assert mark == ("✓" if distance == 0 else "✗")
            assert (mark == "✓") == (trace.hit and position == len(parts) - 1)


def test_the_answer_is_the_attempt_that_hit_or_a_guess(countdown: Countdown) -> None:
    hits = misses = lucky = 0
    for problem, trace in search_traces(countdown, 1000, (0, 6)):
        numbers, _ = evaluate(trace.answer)
        assert sorted(numbers) == problem.data["numbers"]
        grade = countdown.grade_answer(problem, trace.answer)
        if trace.hit:
            hits += 1
            assert grade.verdict is Verdict.CORRECT
            last = STEP.findall(attempts_of(trace.thought)[-1][0])[-1]
            assert last[1] in trace.answer
        else:
            misses += 1
            lucky += grade.verdict is Verdict.CORRECT
    assert hits > 200
    # A guess is right as often as one more attempt: between one in twenty and one in five on these problems.
    assert 0.05 < lucky / misses < 0.2


def test_the_known_solution_is_never_looked_at(countdown: Countdown) -> None:
    for problem in countdown.problems("warmstart")[:50]:
        spoilt = replace(problem, solution="spoilt")
        assert search_trace(problem, random.Random(1), 3) == search_trace(spoilt, random.Random(1), 3)


def test_one_style_of_brackets(countdown: Countdown) -> None:
    shape = re.compile(r"\(\d+[-+*]\d+\)[-+*]\d+|\d+[-+*]\(\d+[-+*]\d+\)")
    for _, trace in search_traces(countdown, 300):
        assert shape.fullmatch(trace.answer)


def test_attempts_are_distinct_up_to_commuted_operands() -> None:
    # 2 and 3 with + and *: only 2+3 and 2*3, whatever the order; neither makes 7.
    problem = Problem("x", "2 3->7", "", {"numbers": [2, 3], "target": 7, "operations": "+*"})
    for seed in range(20):
        trace = search_trace(problem, random.Random(seed), 10)
        assert sorted(steps.split("=")[1] for steps, _, _ in attempts_of(trace.thought)) == ["5", "6"]
        assert not trace.hit
        assert trace.answer in {"2+3", "3+2", "2*3", "3*2"}


def test_words_tell_the_same_search(countdown: Countdown) -> None:
    """The same draws, spelled otherwise: no distance, `yes` and `no` for the marks, answers with fewer parentheses."""
    signs = search_traces(countdown, 200, (0, 5), seed=2)
    words = search_traces(countdown, 200, (0, 5), seed=2, writing=WORDS)
    for (problem, one), (same, other) in zip(signs, words, strict=True):
        assert (problem.key, one.hit, one.attempts) == (same.key, other.hit, other.attempts)
        assert other.answer == plain(one.answer)
        assert (
            countdown.grade_answer(problem, other.answer).verdict == countdown.grade_answer(problem, one.answer).verdict
        )
        marks = {"✓": "yes", "✗": "no"}
        spelled = [f"{steps.replace(',', ', ')}, {marks[mark]}" for steps, _, mark in attempts_of(one.thought)]
        assert other.thought == "\n\nWait, ".join(spelled)


def test_no_attempts_is_a_bare_guess(countdown: Countdown) -> None:
    problem = countdown.problems("warmstart")[0]
    trace = search_trace(problem, random.Random(0), 0)
    assert (trace.thought, trace.attempts, trace.hit) == ("", 0, False)


def test_draws_reach_every_attempt_and_stay_in_range() -> None:
    rng = random.Random(0)
    found = {draw_attempt([2, 3], "+-*/", 99, rng) for _ in range(300)}
    assert {(a.steps, a.expression) for a in found if a} == {
        (f"{text}={value}", text) for text, value in {"2+3": 5, "3+2": 5, "3-2": 1, "2*3": 6, "3*2": 6}.items()
    }
    assert draw_attempt([50, 60], "*", 99, rng) is None  # the only product is out of range
    for _ in range(300):
        attempt = draw_attempt([7, 9, 12, 25], "+-*/", 99, rng)
        assert attempt
        assert all(0 <= int(value) <= 99 for *_, value in STEP.findall(attempt.steps))
        assert evaluate(attempt.expression) == (evaluate(attempt.expression)[0], attempt.value)


def test_deterministic_and_spread_over_the_problems(countdown: Countdown) -> None:
    once = search_traces(countdown, 900, (1, 4), seed=3)
    assert once == search_traces(countdown, 900, (1, 4), seed=3)
    assert once != search_traces(countdown, 900, (1, 4), seed=4)
    keys = [problem.key for problem, _ in once]
    assert {key: keys.count(key) for key in keys}.keys() == {p.key for p in countdown.problems("warmstart")}
    assert {keys.count(key) for key in keys} == {2, 3}  # 400 problems go round twice, then 100 once more
    assert {trace.attempts for _, trace in once} == {1, 2, 3, 4}


def test_what_cannot_work_is_told(countdown: Countdown) -> None:
    with pytest.raises(ConfigError, match="range"):
        search_traces(countdown, 10, (3, 2))
    with pytest.raises(ConfigError, match="raise its option 'warmstart'"):
        search_traces(Countdown(high=5, train=1, warmstart=0, test=1), 10)
    with pytest.raises(ConfigError, match="Countdown, chains and cycles only"):
        search_trace(Problem("files:1", "What is 1+1?", "2"), random.Random(0), 2)
    with pytest.raises(ConfigError, match="traces must be at least 1"):
        search_traces(countdown, 0)
