"""What a gate measures of a trained run: held-out tasks, beside the floor (random) and the ceiling (exact optimum).

A measurement is a function (run, recipe, tasks, measures) -> {measure: Score}. Policies of control act greedily,
unless the gate says otherwise; every policy of a gate meets the same tasks and noise (`mrt.control.evaluation.run`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mrt.control.agent import Entrant
from mrt.control.envs import make_tasks
from mrt.control.envs.decisions import TwoStep
from mrt.control.evaluation.measures import watch
from mrt.control.evaluation.run import HELD_OUT, evaluate_policy
from mrt.control.loading import load_agent
from mrt.runs.recipe import Recipe

STAY = "stay_common_minus_rare"


class Score(NamedTuple):
    """Mean over tasks and its standard error; floor and ceiling are expectations, None where not known."""

    mean: float
    se: float
    floor: float | None = None
    ceiling: float | None = None


def control(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str], greedy: bool = True) -> dict[str, Score]:
    """Measures of `mrt.control.evaluation.measures` by name; the ceiling is Bayes-optimal where
    that is known, else the known task's. `of_bayes` is the total over its Bayes-optimal value;
    `stay_common_minus_rare` see `stay`.
    """
    torch.set_num_threads(1)
    held_out, policy = make_tasks(**recipe.tasks), load_agent(run)
    played = ["total" if name == "of_bayes" else name for name in measures if name != STAY]
    names = list(dict.fromkeys(played))
    found = evaluate_policy(policy, held_out, count=tasks, greedy=greedy, references=(), measures=names)
    exact = found["exact"].get("Bayes-optimal", {})
    scores = {}
    for name, asked in zip((n for n in measures if n != STAY), played, strict=True):
        ours, bounds = found["players"]["policy"]["measures"][asked], found["bounds"][asked]
        score = Score(ours["mean"], ours["se"], bounds["floor"], exact.get(asked, bounds["ceiling"]))
        if name == "of_bayes":
            whole = exact["total"]
            score = Score(score.mean / whole, score.se / whole, (score.floor or 0.0) / whole, 1.0)
        scores[name] = score
    return scores | ({STAY: stay(run, recipe)} if STAY in measures else {})


def stay(run: Path, recipe: Recipe, tasks: int = 2000) -> Score:
    """The signature of model-based choice (Daw et al. 2011; Wang et al. 2016, figure 5): how much likelier the first
    choice of a trial is repeated in the second after a reward that came by the common way than by the rare one.

    1 for the Bayes-optimal policy. Later choices would blur it: who knows the task by then has no reason to switch.
    """
    held_out = make_tasks(**recipe.tasks)
    env = held_out.env
    assert isinstance(env, TwoStep)
    player = Entrant(load_agent(run), greedy=True)
    _, seen = watch(env, player, held_out.batch(HELD_OUT, range(tasks)), seed=HELD_OUT, keep=True)
    first, second = seen.actions[0], seen.actions[2]  # a choice takes two steps
    common, paid = seen.states[1]["stage"] - 1 == first, seen.rewards[1] > 0
    stayed = (first == second).double()
    one, other = stayed[paid & common], stayed[paid & ~common]
    error = _variance(one) + _variance(other)
    return Score(float(one.mean() - other.mean()), error**0.5, 0.0, 1.0)


def _variance(values: Tensor) -> float:
    return float(values.var() / len(values))
