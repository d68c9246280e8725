"""Cycles: the problems, the best number of each, and the traces that go through them."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest

from mrt.errors import ConfigError
from mrt.reasoning.grading.verdict import Verdict
from mrt.reasoning.models.tiny import WAIT, build_tokenizer
from mrt.reasoning.problems import SPLITS, Cycles, Problem, load_problems, validate
from mrt.reasoning.problems.cycles import cycle
from mrt.reasoning.training.cycle_traces import cycle_episodes
from mrt.reasoning.training.search_traces import Habits, search_trace

SMALL = {"train": 60, "warmstart": 40, "test": 20}
DATA = {"numbers_of_cycle": [12, 70, 85, 27], "bound": 80, "same": "12*22->80"}


def episodes(count: int, recheck: float = 0, overwrite: float = 0) -> tuple[list[str], int, bool]:
    return cycle_episodes(DATA, random.Random(0), count, recheck=recheck, overwrite=overwrite)


def test_by_hand() -> None:
    assert cycle(12, 22) == [12, 70, 85, 27]
    assert 12 * 22 % 97 == 70
    assert episodes(3) == (["12 12", "70 70", "85 70"], 70, False)
    assert episodes(5) == (["12 12", "70 70", "85 70", "27 70", "12 70"], 70, True)
    assert episodes(4, overwrite=1) == (["12 12", "70 70", "85 85", "27 27"], 27, True)
    assert episodes(3, recheck=1) == (["12 12"] * 3, 12, False)
    problem = Problem("cycles:12*22->80", "12*22->80", "70", DATA)
    trace = search_trace(problem, random.Random(0), 2)
    assert (trace.thought, trace.answer) == (f"12 12{WAIT}70 70", "70")
    assert not trace.hit
    graded = [Cycles(**SMALL).grade(problem, f"</think>\\boxed{{{n}}}", opened=True).verdict for n in (70, 27)]
    assert graded == [Verdict.CORRECT, Verdict.WRONG]


@pytest.mark.parametrize("length", [4, 8, 16])
def test_every_problem_is_what_it_says(length: int) -> None:
    problems, tokenizer = load_problems("cycles", length=length, **SMALL), build_tokenizer()
    keys, same = set[str](), dict[str, str]()
    for split in SPLITS:
        assert validate(problems, split) == SMALL[split]
        for problem in problems.problems(split):
            start, multiplier = map(int, problem.prompt.partition("->")[0].split("*"))
            numbers, bound = problem.data["numbers_of_cycle"], problem.data["bound"]
            assert [start * multiplier**i % 97 for i in range(length)] == numbers
            assert len(set(numbers)) == length
            assert start * multiplier**length % 97 == start
            assert problem.prompt.endswith(f"->{bound}")
            assert tokenizer.decode(tokenizer(problem.prompt)["input_ids"]) == problem.prompt
            assert int(problem.solution) == max(number for number in numbers if number <= bound)
            assert problem.key not in keys
            keys.add(problem.key)
            # The same numbers and bound, begun elsewhere, are in no other split.
            assert same.setdefault(f"{min(numbers)} {bound}", split) == split


def test_useless_and_harmful_episodes_come_as_often_as_they_should() -> None:
    rng, seen = random.Random(0), Counter[str]()
    for problem in Cycles(length=16, train=0, warmstart=200, test=0).problems("warmstart"):
        written, answer, everywhere = cycle_episodes(problem.data, rng, 60, recheck=0.4, overwrite=0.2)
        assert everywhere
        assert answer == int(written[-1].split()[1])
        for before, after in pairwise(written):
            seen["episodes"] += 1
            seen["again"] += before == after
            if before != after:
                best = int(before.split()[1])
                number, now = map(int, after.split())
                assert now in (number, best)
                if best < number <= problem.data["bound"]:
                    assert now == number
                elif number != best:
                    seen["worse"] += 1
                    seen["lost"] += now == number
    assert seen["again"] / seen["episodes"] == pytest.approx(0.4, abs=0.03)
    assert seen["lost"] / seen["worse"] == pytest.approx(0.2, abs=0.03)


def test_without_an_episode_the_answer_is_a_guess_up_to_the_bound() -> None:
    rng = random.Random(0)
    answers = {cycle_episodes(DATA, rng, 0, recheck=0, overwrite=0)[1] for _ in range(2000)}
    assert answers == set(range(81))


def test_bad_options_are_named() -> None:
    for options in ({"length": 1}, {"length": 5}, {"length": 192}, {"train": -1}):
        with pytest.raises(ConfigError, match="cycles"):
            Cycles(**{**SMALL, **options})
    with pytest.raises(ConfigError, match="different cycles of length 32"):
        Cycles(length=32, train=50_000, warmstart=0, test=0)
    with pytest.raises(ConfigError, match="no split 'dev'"):
        Cycles(**SMALL).problems("dev")
    with pytest.raises(ConfigError, match="overwrite=2"):
        Habits(overwrite=2)
