"""Hindsight: which later states become goals, and what the steps earn for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from classic_metarl.baselines.goal_conditioned import LATER, HERConfig, HERTrainer, later_steps, relabel
from mrt.control.agent import RandomAgent
from mrt.control.envs import make_tasks
from mrt.control.off_policy import SACPolicy
from mrt.control.rollout import rollout
from mrt.errors import ConfigError

TASKS = {"name": "point-robot", "episodes": 2, "steps": 5, "show_goal": True, "radius": 0.3}


def trainer(folder: Path, **options: Any) -> HERTrainer:
    tasks = make_tasks(**TASKS)
    args = HERConfig(
        str(folder), use_cpu=True, per_device_train_batch_size=4, random_steps=20, batch_size=64, max_steps=2, **options
    )
    return HERTrainer(SACPolicy.for_spec(tasks.env.spec, hidden_size=8), args, tasks)


def test_goals_lie_later_in_the_same_episode() -> None:
    episode = torch.tensor([[0, 0, 0, 1, 1, 1, -1], [0, 0, 0, 0, 1, 1, 1]])
    torch.manual_seed(0)
    drawn = later_steps(episode, 200)
    assert [sorted(set(row.tolist())) for row in drawn[0]] == [[1, 2], [2], [2], [4, 5], [5], [5], [6]]
    assert [sorted(set(row.tolist())) for row in drawn[1]] == [[1, 2, 3], [2, 3], [3], [3], [5, 6], [6], [6]]
    shares = torch.bincount(drawn[1, 0], minlength=4)[1:] / 200
    assert shares.min() > 0.2, "each later step is as likely"
    assert later_steps(episode, 2, final=True)[1, :, 0].tolist() == [3, 3, 3, 3, 6, 6, 6]


def test_a_relabelled_step_earns_what_the_environment_pays_for_that_goal() -> None:
    tasks = make_tasks(**TASKS)
    params = tasks.batch(0, range(8))
    trials = rollout(tasks.env, RandomAgent(tasks.env.spec, 1), params, seed=3)
    seen = trials.inputs["observation"]
    goal = seen[:, 5, :2].clone()  # where the first episode ends
    steps = {
        "observation": seen[:, :5].flatten(0, 1),
        "next_observation": seen[:, 1:6].flatten(0, 1),
        "reward": trials.rewards[:, :5].flatten(),
    }
    every = goal[:, None].expand(-1, 5, -1).flatten(0, 1)
    other = relabel(steps, every, torch.ones(40, dtype=torch.bool), tasks.env)
    played = rollout(tasks.env, RandomAgent(tasks.env.spec, 1), {"goal": goal}, seed=3)
    assert torch.equal(other["reward"], played.rewards[:, :5].flatten())
    assert torch.equal(other["observation"], played.inputs["observation"][:, :5].flatten(0, 1))
    assert torch.equal(other["next_observation"], played.inputs["observation"][:, 1:6].flatten(0, 1))
    assert (other["reward"].view(8, 5)[:, -1] == 0).all(), "the last step reached it"
    same = relabel(steps, every, torch.zeros(40, dtype=torch.bool), tasks.env)
    assert all(torch.equal(same[name], steps[name]) for name in steps)


def test_the_share_that_is_relabelled(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with_goals, without = trainer(tmp_path / "k", relabelled=3), trainer(tmp_path / "0", relabelled=0)
    for one in (with_goals, without):
        one.next_batch([0, 1, 2, 3])
    truth = {tuple(goal.tolist()) for goal in with_goals.tasks.batch(with_goals.args.seed, range(4))["goal"]}
    batches = [with_goals.sample() for _ in range(20)]
    assert LATER not in batches[0]
    told = torch.cat([batch["observation"][:, 2:] for batch in batches])
    real = sum(tuple(goal.tolist()) in truth for goal in told) / len(told)
    assert real == pytest.approx(1 / 4, abs=0.04)
    assert all(torch.equal(batch["observation"][:, 2:], batch["next_observation"][:, 2:]) for batch in batches)
    told = without.sample()["observation"][:, 2:]
    assert all(tuple(goal.tolist()) in truth for goal in told)


def test_mistakes_say_what_is_wrong(tmp_path: Path) -> None:
    tasks = make_tasks("sparse-semicircle")
    policy = SACPolicy.for_spec(tasks.env.spec, hidden_size=4)
    args = HERConfig(str(tmp_path), max_steps=1, use_cpu=True)
    with pytest.raises(ConfigError, match="show_goal: true"):
        HERTrainer(policy, args, tasks)
    with pytest.raises(ConfigError, match="future, final"):
        HERConfig(str(tmp_path), max_steps=1, strategy="past")
    with pytest.raises(ConfigError, match="relabelled=-1"):
        HERConfig(str(tmp_path), max_steps=1, relabelled=-1)
