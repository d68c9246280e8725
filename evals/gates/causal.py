"""What gates measure of causal reasoning: the expected value of answers, beside exact reasoning on the same data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from evals.gates.measures import Score
from mrt.control.agent import Agent
from mrt.control.envs import make_tasks
from mrt.control.envs.base import EnvTasks
from mrt.control.envs.causal import QUIZ_AT, CausalGraphs, weights_of
from mrt.control.evaluation.run import HELD_OUT
from mrt.control.loading import load_agent
from mrt.control.oracles import mean_and_se, task_bounds
from mrt.control.oracles.causal import CausalReasoner
from mrt.control.rollout import rollout
from mrt.runs.recipe import Recipe


def quiz(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """`value`: of the node that is named, expected under the true graph; `optimal` and `associative`: the same of exact
    reasoners that set every node in turn; `gap`: share of the way from the second to the first.
    """
    torch.set_num_threads(1)
    drawn = make_tasks(**recipe.tasks)
    env, params = drawn.env, drawn.batch(HELD_OUT, range(tasks))
    assert isinstance(env, CausalGraphs)
    ours = quiz_values(load_agent(run), drawn, tasks)
    optimal = quiz_values(CausalReasoner(env), drawn, tasks)
    associative = quiz_values(CausalReasoner(env, "associative"), drawn, tasks)
    bounds = task_bounds(env, params)
    floor, ceiling = float(bounds.floor.mean()), float(optimal.mean())
    way = float((optimal - associative).mean())
    found = {
        "value": Score(*mean_and_se(ours), floor, ceiling),
        "optimal": Score(*mean_and_se(optimal), floor, float(bounds.ceiling.mean())),
        "associative": Score(*mean_and_se(associative), floor, ceiling),
        "gap": Score(float((ours - associative).mean()) / way, mean_and_se(ours - optimal)[1] / way, 0.0, 1.0),
    }
    return {name: found[name] for name in measures}


def quiz_values(agent: Agent, drawn: EnvTasks, tasks: int) -> Tensor:
    """(tasks,) E[x_i | do(x_j = -5)] under the true graph, of the node i that the agent names."""
    env = drawn.env
    assert isinstance(env, CausalGraphs)
    params = drawn.batch(HELD_OUT, range(tasks))
    trials = rollout(env, agent, params, seed=HELD_OUT, greedy=True)
    last = env.nodes - 1
    named, seen = trials.actions[:, last], trials.inputs["observation"][:, last]
    node = seen[:, 2 * env.seen : 3 * env.seen].argmax(1) + env.hidden
    weights = weights_of(params["edges"], env.nodes).double()
    eye = torch.eye(env.nodes, dtype=torch.float64)
    free = 1 - eye[node]
    effect = torch.linalg.inv(eye - free[:, :, None] * weights)
    rows = torch.arange(tasks)
    return QUIZ_AT * effect[rows, named + int(env.hidden), node]
