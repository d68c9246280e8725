"""Countdown in attempts: what the grader says, and what it pays."""

from __future__ import annotations

import pytest
import torch

from mrt.errors import ConfigError
from mrt.reasoning.attempts.countdown import CountdownAttempts
from mrt.tasks import Task

SIZES = {"high": 9, "train": 40, "warmstart": 8, "test": 8}


def tasks_of(env: CountdownAttempts, rows: int) -> list[Task]:
    """The problem 3 5 7 -> 22, in so many rows."""
    problem = env.problem_set.problem((3, 5, 7), 22, "3*5+7")  # type: ignore[attr-defined]
    return [Task(problem.key, {"problem": problem})] * rows


SAID = {
    "\\boxed{3*5+7}": ("✓", "Right."),
    "\\boxed{7*5-3}": ("✗+10", "32 is too high by 10. Try again."),
    "\\boxed{3+5+7}": ("✗-7", "15 is too low by 7. Try again."),
    "\\boxed{3*5*7}": ("✗+83", "105 is too high by 83. Try again."),
    "\\boxed{3+5}": ("✗,", "Use each of the given numbers exactly once. Try again."),
    "\\boxed{3+}": ("~", "That is no expression in \\boxed{}. Try again."),
    "3*5+7": ("~", "That is no expression in \\boxed{}. Try again."),
    "": ("~", "That is no expression in \\boxed{}. Try again."),
}


@pytest.mark.parametrize("feedback", ["signs", "words"])
def test_the_grader_says_what_is_wrong(feedback):
    env = CountdownAttempts(attempts=2, feedback=feedback, **SIZES)
    assert env.reset(tasks_of(env, len(SAID)), 0) == ["3 5 7->22"] * len(SAID)
    turn = env.step(list(SAID))
    assert turn.texts == [said[feedback == "words"] for said in SAID.values()]
    assert turn.solved.tolist() == [True] + [False] * 7
    assert turn.unread.tolist() == [False] * 5 + [True] * 3
    assert turn.rewards.tolist() == pytest.approx([1, 0, 0, 0, 0, -0.1, -0.1, -0.1])
    assert turn.attempt_over.all()
    assert turn.trial_over.tolist() == turn.solved.tolist()
    assert env.step(list(SAID)).trial_over.all(), "the second attempt is the last"


@pytest.mark.parametrize(("feedback", "told"), [("blind", "\n\nWait"), ("blind-words", "There might be an error")])
def test_blind_attempts_are_told_nothing_and_all_made(feedback, told):
    env = CountdownAttempts(attempts=2, feedback=feedback, **SIZES)
    env.reset(tasks_of(env, 2), 0)
    turn = env.step(["\\boxed{3*5+7}", "\\boxed{3+5+7}"])
    assert turn.texts[0] == turn.texts[1]
    assert turn.texts[0].startswith(told)
    assert turn.rewards.tolist() == [1.0, 0.0]
    assert turn.trial_over.tolist() == turn.solved.tolist() == [False, False]
    turn = env.step(["\\boxed{3+5+7}", "\\boxed{3*5+7}"])
    assert turn.rewards.tolist() == [0.0, 1.0]
    assert turn.trial_over.tolist() == [True, True]
    assert turn.solved.tolist() == [False, True]


def test_a_large_difference_is_told_within_the_vocabulary():
    env = CountdownAttempts(**SIZES)
    env.reset(tasks_of(env, 1), 0)
    problem = env.problem_set.problem((20, 20, 20), 22, "0")  # type: ignore[attr-defined]
    env.reset([Task(problem.key, {"problem": problem})], 0)
    assert env.step(["\\boxed{20*20*20}"]).texts == ["✗+99"]


def test_payoffs_are_the_answers_that_grade_as_right():
    env = CountdownAttempts(**SIZES)
    env.reset([env.sample(0, index) for index in range(3)], 0)
    table = env.payoffs()
    assert table is not None
    for row, answers in enumerate(table):
        one = env.select(torch.tensor([row] * len(answers)))
        assert one.step(list(answers)).solved.all()
        assert set(answers.values()) == {1.0}


def test_every_problem_comes_once_before_any_comes_again():
    env = CountdownAttempts(**SIZES)
    keys = [env.sample(7, index).key for index in range(80)]
    assert sorted(keys[:40]) == sorted(keys[40:]) == sorted(problem.key for problem in env.problems)
    assert keys[:40] != keys[40:]
    assert keys == [env.sample(7, index).key for index in range(80)]
    tested = {problem.key for problem in CountdownAttempts(split="test", **SIZES).problems}
    assert not tested & set(keys)


def test_what_cannot_be_is_refused():
    for wrong in ({"attempts": 0}, {"split": "tset"}, {"feedback": "loud"}, {"numbres": 3}):
        with pytest.raises(ConfigError):
            CountdownAttempts(**{**SIZES, **wrong})  # type: ignore[arg-type]
