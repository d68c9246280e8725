"""What gates measure of agents that infer their task: returns of the episodes of a trial, on held-out tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from evals.gates.measures import Score
from mrt.control.envs import make_tasks
from mrt.control.evaluation.run import evaluate_policy
from mrt.control.loading import load_agent
from mrt.runs.recipe import Recipe


def episodes(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """Measures of `mrt.control.evaluation.measures` by name, of the agent that the run left behind; it acts greedily,
    draws of its posterior aside. Floor and ceiling are random play and the known task's optimum.
    """
    torch.set_num_threads(1)
    held_out = make_tasks(**recipe.tasks)
    found = evaluate_policy(load_agent(run), held_out, count=tasks, references=(), measures=list(measures))
    scores = {}
    for name in measures:
        ours, bounds = found["players"]["policy"]["measures"][name], found["bounds"][name]
        scores[name] = Score(ours["mean"], ours["se"], bounds["floor"], bounds["ceiling"])
    return scores
