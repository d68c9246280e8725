"""Backtracking traces: what they say can be worked out again, and each variant does what it is called."""

import random
import re
from typing import Any

import pytest

from mrt.errors import ConfigError
from mrt.reasoning.problems import load_problems
from mrt.reasoning.problems.expressions import evaluate
from mrt.reasoning.traces.segmentation import make_segmenter
from mrt.reasoning.training.backtrack_traces import backtrack_trace, states
from tests.support.latex_tokenizer import latex_tokenizer

COUNTDOWN: Any = load_problems("countdown", numbers=4, high=9, train=1, warmstart=10, test=1)
PROBLEM = COUNTDOWN.problem((3, 5, 7), 22, "3*5+7")


def test_states_by_hand():
    pools = states((3, 5, 7), ["3*5=15", "15+7=22"])
    assert [sorted(entry[0] for entry in pool) for pool in pools] == [[3, 5, 7], [7, 15], [22]]
    assert pools[-1][0][1] == "((3*5)+7)"
    twice = states((4, 4, 2), ["4-4=0", "2+0=2"])
    assert [len(pool) for pool in twice] == [3, 2, 1]


def attempts_of(thought):
    """The steps of each attempt, and how many of the one before it were kept."""
    found, kept = [], [0]
    for part in re.split(r"\n\n(Backtrack to [a-z0-9 ]+)\n\n", thought):
        if part.startswith("Backtrack"):
            kept.append(0 if part.endswith("beginning") else int(part.split()[-1]))
        else:
            lines = part.split("\n")
            assert [line.partition(":")[0] for line in lines] == [f"Step {n}" for n in range(1, len(lines) + 1)]
            found.append([line.partition(": ")[2].partition(",")[0] for line in lines])
    return list(zip(found, kept, strict=True))


@pytest.mark.parametrize("variant", ["shared", "random", "rejection"])
def test_every_step_is_right_and_kept_steps_are_kept(variant):
    rng, made, hits, backtracks = random.Random(0), 0, 0, 0
    for problem in COUNTDOWN.problems("warmstart"):
        trace = backtrack_trace(problem, rng, 3, variant)
        if trace is None:
            assert variant == "rejection"
            continue
        made += 1
        attempts = attempts_of(trace.thought)
        assert len(attempts) == trace.attempts <= 3
        for place, (steps, kept) in enumerate(attempts):
            assert len(steps) == 3
            values = states(problem.data["numbers"], steps)[-1]
            assert steps[:kept] == attempts[place - 1][0][:kept]
            last = place == len(attempts) - 1
            assert (values[0][0] == problem.data["target"]) == (last and trace.hit)
        used, value = evaluate(trace.answer)
        assert sorted(used) == problem.data["numbers"]
        assert trace.hit == (value == problem.data["target"])
        assert trace.thought.endswith("yes" if trace.hit else "no")
        hits, backtracks = hits + trace.hit, backtracks + len(attempts) - 1
    assert made == 10 or (variant == "rejection" and made >= 2)
    assert backtracks >= 1
    if variant == "rejection":
        assert hits == made
    elif variant == "shared":
        assert hits >= 8


def test_it_goes_back_to_the_best_prefix():
    """From 3*5=15 half of the continuations of 3 5 7 -> 22 are right, from the beginning few are."""
    rng, kept = random.Random(1), []
    for _ in range(30):
        attempts = attempts_of(backtrack_trace(PROBLEM, rng, 2).thought)
        if len(attempts) == 2 and attempts[0][0][0] in ("3*5=15", "5*3=15"):
            kept.append(attempts[1][1])
    assert kept
    assert set(kept) == {1}


def test_a_backtrack_opens_an_episode():
    tokenizer = latex_tokenizer()
    trace = backtrack_trace(PROBLEM, random.Random(0), 3, "random")
    while trace.attempts < 3:
        trace = backtrack_trace(PROBLEM, random.Random(trace.attempts + len(trace.thought)), 3, "random")
    ids = tokenizer(trace.thought, add_special_tokens=False)["input_ids"]
    segment = make_segmenter("cues", cues=["Backtrack to"], min_paragraphs=0)
    assert len(segment(ids, tokenizer)) == trace.attempts


def test_what_cannot_be():
    with pytest.raises(ConfigError, match="backtrack='best'"):
        backtrack_trace(PROBLEM, random.Random(0), 2, "best")
    chains = load_problems("chains", terms=3, train=1, warmstart=1, test=1)
    with pytest.raises(ConfigError, match="for Countdown only"):
        backtrack_trace(chains.problems("train")[0], random.Random(0), 2)
