"""What gates measure of model-based adaptation: what control costs once a change could be known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from classic_metarl.problems.sign_flip import SignFlip
from evals.gates.measures import Score
from mrt.control.envs import make_tasks
from mrt.control.evaluation.run import HELD_OUT
from mrt.control.loading import load_agent
from mrt.control.oracles import mean_and_se
from mrt.control.rollout import rollout
from mrt.runs.recipe import Recipe
from mrt.tasks import own_draws
from mrt.trials import Trials


def sign_flip(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """`cost`: what control costs over the known-sign optimum, in all steps but the first after a change, from wherever
    the agent stands: 1 + mean of [(1 + P) e'^2 + rho u^2 - P e^2] / (P sigma^2), exactly 1 for the optimal u.
    `first`: the same in the first steps after a change, which nobody can foresee; `model`: mean squared error of the
    model in all steps but these, over the mean square of what it predicts; `model_first` in them. `idle`: the cost of
    u = 0.
    """
    torch.set_num_threads(1)
    held_out = make_tasks(**recipe.tasks)
    env = held_out.env
    assert isinstance(env, SignFlip)
    params = held_out.batch(HELD_OUT, range(tasks))
    with own_draws(HELD_OUT + recipe.seed, torch.device("cpu")):
        trials = rollout(env, load_agent(run), params, seed=HELD_OUT + recipe.seed)
    over, idle = excess(trials, env)
    steps = torch.arange(over.shape[1])
    first = steps % env.every == 0
    error = trials.inputs["model_error"][:, 1:].double()  # what was told of a step stands at the next one
    square = trials.actions[:, :-1, 0].double().square()
    changed = first & (steps > 0)
    each = {
        "cost": 1 + over[:, ~first].mean(1),
        "first": 1 + over[:, changed].mean(1),
        "idle": 1 + idle[:, ~first].mean(1),
        "model": error[:, ~first].mean(1) / square[:, ~first].mean(1),
        "model_first": error[:, changed].mean(1) / square[:, changed].mean(1),
    }
    return {name: Score(*mean_and_se(each[name]), None, float(not name.startswith("model"))) for name in measures}


def excess(trials: Trials, env: SignFlip) -> tuple[Tensor, Tensor]:
    """(B, T) how much worse each action, and doing nothing, is than the optimum from there, in units of P sigma^2."""
    seen = trials.inputs["observation"].double()
    before = seen[:, :-1, 0] - seen[:, :-1, 1]
    after = seen[:, 1:, 0] - seen[:, :-1, 1]  # the target moves only then
    used = trials.actions[:, :-1, 0].double().clamp(-1, 1)
    p, unit = env.riccati, env.riccati * env.sigma**2
    best = p * before.square()
    spent = (1 + p) * after.square() + env.rho * used.square()
    return (spent - best) / unit, ((1 + p) * before.square() - best) / unit
