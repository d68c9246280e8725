"""What gates measure of learned returns and of policies that modify themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classic_metarl.meta_learned.meta_gradient import MetaGradientAgent
from classic_metarl.meta_learned.self_modifying import SelfModifying
from classic_metarl.problems.roads import Roads
from classic_metarl.problems.switching_bandit import SwitchingBandit
from evals.gates.measures import Score
from mrt.control.agent import Agent
from mrt.control.envs import make_tasks
from mrt.control.evaluation.run import HELD_OUT
from mrt.control.loading import load_agent, load_control_policy
from mrt.control.oracles import mean_and_se
from mrt.control.rollout import rollout
from mrt.runs.recipe import Recipe, import_trainer
from mrt.tasks import own_draws


def roads(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """`gamma` and `lambda` that were learned, `far`: the chance that the policy takes the far road, and `far_fixed`:
    the same after training here with gamma and lambda as they began. Exact: every episode begins at one observation.
    """
    torch.set_num_threads(1)
    env = make_tasks(**recipe.tasks).env
    assert isinstance(env, Roads)
    agent = load_control_policy(run, MetaGradientAgent)
    found = {"gamma": float(agent.eta.gamma), "lambda": float(agent.eta.lam), "far": _far(agent, env)}
    if "far_fixed" in measures:
        fixed = replace(recipe, args={**recipe.args, "meta_rate": 0.0, "save_strategy": "no"})
        trainer: Any = import_trainer(fixed.trainer).from_recipe(fixed, run / "fixed")
        trainer.train()
        found["far_fixed"] = _far(trainer.unwrapped, env)
    late = env.kind == "late"
    bounds = {"far": (0.5, float(late)), "far_fixed": (0.5, float(late))}
    return {name: Score(found[name], 0.0, *bounds.get(name, (None, None))) for name in measures}


def _far(agent: Any, env: Roads) -> float:
    start = torch.eye(env.spec.observation)[:1]
    with torch.no_grad():
        return float(agent.theta(start)[0].softmax(-1)[0, 1])


def success_story(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """`late`: reward a pull in the second half of each period; `walk`: the same without the stack; `over_walk`: the
    paired gap; `height`: entries of the stack at the end.
    """
    torch.set_num_threads(1)
    held_out = make_tasks(**recipe.tasks)
    env = held_out.env
    assert isinstance(env, SwitchingBandit)
    walk = SelfModifying.for_spec(env.spec, **{**recipe.policy, "stack": False})
    params = held_out.batch(HELD_OUT, range(tasks))

    def late(agent: Agent) -> tuple[Tensor, Tensor]:
        with own_draws(HELD_OUT + recipe.seed, torch.device("cpu")):
            trials = rollout(env, agent, params, seed=HELD_OUT + recipe.seed)
        pulls = trials.rewards[:, : env.every * env.periods].double().unflatten(1, (env.periods, env.every))
        return pulls[:, :, env.every // 2 :].mean((1, 2)), trials.inputs["height"][:, -1].double()

    ours, height = late(load_agent(run))
    theirs, _ = late(walk)
    floor = env.bad + (env.good - env.bad) / env.arms
    found = {"late": Score(*mean_and_se(ours), floor, env.good), "walk": Score(*mean_and_se(theirs), floor, env.good)}
    found |= {"over_walk": Score(*mean_and_se(ours - theirs)), "height": Score(*mean_and_se(height))}
    return {name: found[name] for name in measures}
