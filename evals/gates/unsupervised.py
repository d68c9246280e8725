"""What gates measure of learning without rewards: skills that can be told apart, and goals that are found sooner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from classic_metarl.task_distributions.diayn import SkillPolicy
from evals.gates.measures import Score
from mrt.control.agent import Agent, RandomAgent
from mrt.control.envs import EnvTasks, make_env, make_tasks
from mrt.control.envs.skills import standardised
from mrt.control.envs.wrappers import ScaledReward
from mrt.control.evaluation.run import HELD_OUT
from mrt.control.loading import load_agent, load_control_policy
from mrt.control.oracles import mean_and_se
from mrt.control.rollout import rollout
from mrt.runs.recipe import Recipe

GOAL_EPISODES = 10


def skills(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """`pseudo_reward`: log q(z|s) + log K, mean over the steps of an episode; `accuracy`: share of them whose state is
    given to the right skill. Floors are those of skills that are all the same.
    """
    torch.set_num_threads(1)
    policy, drawn = load_control_policy(run, SkillPolicy), make_tasks(**recipe.tasks)
    trials = rollout(drawn.env, policy, drawn.batch(HELD_OUT, range(tasks)), seed=HELD_OUT)
    k = policy.config.skills
    seen, inside = trials.inputs["observation"], trials.mask[:, :-1].float()
    with torch.no_grad():
        said = policy.discriminate(seen[:, 1:])
    skill = seen[:, :-1, -k:].argmax(-1)
    right = (said.argmax(-1) == skill).float()
    reward = said.gather(-1, skill[..., None])[..., 0] + math.log(k)

    def score(values: Tensor, floor: float, ceiling: float) -> Score:
        return Score(*mean_and_se(((values * inside).sum(1) / inside.sum(1)).double()), floor, ceiling)

    found = {"pseudo_reward": score(reward, 0.0, math.log(k)), "accuracy": score(right, 1 / k, 1.0)}
    return {name: found[name] for name in measures}


def first_success(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """`episodes`: until the goal of a dark room is first reached, the last one + 1 where it never is; `scratch`: the
    same of a learner that begins from nothing, which plays at random until its first success; `ratio`: of the means.
    Rewards have mean 0 and deviation 1 over the cells, as in training.
    """
    torch.set_num_threads(1)
    size, steps = recipe.tasks["size"], recipe.tasks["steps"]
    goal = standardised(torch.eye(size * size)[0])  # what its cell pays, and any other
    room = make_env("dark-room", size=size, steps=steps, episodes=GOAL_EPISODES)
    drawn = EnvTasks(ScaledReward(room, float(goal[0] - goal[1]), float(goal[1])))
    ours = _until_success(load_agent(run), drawn, tasks)
    scratch = _until_success(RandomAgent(drawn.env.spec, 0), drawn, tasks)
    ratio = float(ours.mean() / scratch.mean())
    spread = torch.stack([ours / ours.mean(), -scratch / scratch.mean()]).sum(0)
    found = {"episodes": Score(*mean_and_se(ours)), "scratch": Score(*mean_and_se(scratch))}
    found["ratio"] = Score(ratio, ratio * mean_and_se(spread)[1], 1.0, None)
    return {name: found[name] for name in measures}


def _until_success(agent: Agent, drawn: EnvTasks, tasks: int) -> Tensor:
    """(tasks,) number of the first episode that earns anything, from 1 on."""
    trials = rollout(drawn.env, agent, drawn.batch(HELD_OUT, range(tasks)), seed=HELD_OUT)
    paid = (trials.rewards > 0) & trials.mask
    late = torch.full_like(trials.episode, GOAL_EPISODES)
    return (torch.where(paid, trials.episode, late).amin(1) + 1).double()
