"""Chains: sums of many terms, their steps, their grader, and the traces that work them out."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import pairwise

import pytest

from mrt.errors import ConfigError
from mrt.reasoning.grading.verdict import Verdict
from mrt.reasoning.models.tiny import WAIT, build_tokenizer
from mrt.reasoning.problems import SPLITS, Chains, Problem, load_problems, validate
from mrt.reasoning.problems.chains import steps, written
from mrt.reasoning.training.search_traces import Habits, search_trace, search_traces

SMALL = {"train": 60, "warmstart": 40, "test": 20}


def test_by_hand() -> None:
    assert written([7, 12, -5]) == "7+12-5"
    assert steps([7, 12, -5]) == ["7+12=19", "19-5=14"]


def test_every_problem_is_what_it_says() -> None:
    problems = load_problems("chains", terms=6, high=20, **SMALL)
    keys: set[str] = set()
    for split in SPLITS:
        assert len(problems.problems(split)) == SMALL[split]
        assert validate(problems, split) == SMALL[split]
        for problem in problems.problems(split):
            terms = problem.data["terms"]
            assert len(terms) == len({abs(term) for term in terms}) == 6
            assert eval_sum(problem.prompt) == sum(terms) == int(problem.solution)
            running = [sum(terms[: i + 1]) for i in range(6)]
            assert min(running) >= 0
            assert max(running) <= 99
            assert problem.key not in keys  # in no other split either
            keys.add(problem.key)


def eval_sum(text: str) -> int:
    assert re.fullmatch(r"\d+([+-]\d+)*", text)
    return sum(int(part) for part in re.findall(r"[+-]?\d+", text))


def test_the_same_dials_give_the_same_problems_and_another_seed_others() -> None:
    one, same, other = (Chains(**SMALL, seed=seed) for seed in (0, 0, 1))
    assert one.problems("test") == same.problems("test") != other.problems("test")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("3+4=7</think>\\boxed{7}", Verdict.CORRECT),
        ("3+4=7</think>\\boxed{ 7 }", Verdict.CORRECT),
        ("3+4=7</think>\\boxed{8}", Verdict.WRONG),
        ("3+4=7</think>\\boxed{7 or 8}", Verdict.UNPARSED),
        ("3+4=7</think>\\boxed{+7}", Verdict.UNPARSED),
        ("3+4=7</think>\\boxed{٧}", Verdict.UNPARSED),
        ("3+4=7</think>7", Verdict.UNPARSED),
        ("3+4=7", Verdict.TRUNCATED),
    ],
)
def test_verdicts(text: str, verdict: Verdict) -> None:
    problem = Problem("chains:3+4", "3+4", "7", {"terms": [3, 4]})
    assert Chains(**SMALL).grade(problem, text, opened=True).verdict is verdict


def test_bad_dials_are_named() -> None:
    for dials in ({"terms": 1}, {"terms": 30, "high": 20}, {"high": 120}, {"train": -1}):
        with pytest.raises(ConfigError, match="chains"):
            Chains(**{**SMALL, **dials})
    with pytest.raises(ConfigError, match="different sums"):
        Chains(terms=2, high=3, limit=9, train=1000, warmstart=0, test=0)
    with pytest.raises(ConfigError, match="no split 'dev'"):
        Chains(**SMALL).problems("dev")


def test_traces_work_the_chain_out_and_recheck_as_often_as_they_should() -> None:
    problems, tokenizer = Chains(**SMALL), build_tokenizer()
    rng, seen = random.Random(0), Counter()
    for problem in problems.problems("warmstart") * 5:
        trace = search_trace(problem, rng, 100, Habits(recheck=0.25))
        assert trace.hit
        assert trace.answer == problem.solution
        episodes = trace.thought.split(WAIT)
        fresh = [e for i, e in enumerate(episodes) if not i or e != episodes[i - 1]]
        assert fresh == steps(problem.data["terms"])
        seen["all"] += len(episodes) - 1  # the first one cannot repeat anything
        seen["again"] += len(episodes) - len(fresh)
        completion = f"{trace.thought}</think>\\boxed{{{trace.answer}}}"
        assert tokenizer.decode(tokenizer(completion)["input_ids"]) == completion
        cut = search_trace(problem, rng, 3, Habits())
        assert cut.thought == WAIT.join(steps(problem.data["terms"])[:3])
        assert not cut.hit
        assert cut.answer == problem.solution
    expected, count = 0.25, seen["all"]
    assert abs(seen["again"] / count - expected) < 4 * (expected * (1 - expected) / count) ** 0.5


def test_giving_up_leaves_chains_unfinished() -> None:
    made = search_traces(Chains(**SMALL), 400, (0, 14), seed=1, give_up=0.3)
    lengths = Counter(trace.attempts for _, trace in made)
    assert lengths[0] / 400 == pytest.approx(0.3, abs=0.1)
    assert {trace.hit for _, trace in made} == {True, False}


def test_habits_of_a_countdown_search() -> None:
    problems = load_problems("countdown", train=0, warmstart=200, test=0).problems("warmstart")
    rng, seen = random.Random(0), Counter()
    for problem in problems * 3:
        episodes = search_trace(problem, rng, 6, Habits(adjust=0.3, recheck=0.3)).thought.split(WAIT)
        for before, after in pairwise(episodes):
            seen["all"] += 1
            seen["recheck"] += before == after
            seen["adjust"] += before != after and before.split(",")[0] == after.split(",")[0]
    assert seen["recheck"] / seen["all"] == pytest.approx(0.3, abs=0.04)
    assert seen["adjust"] / seen["all"] > 0.2  # where a first step has no second left, a new attempt begins
    with pytest.raises(ConfigError, match="a sum of at most 1"):
        Habits(adjust=0.6, recheck=0.6)
