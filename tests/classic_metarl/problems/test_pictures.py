"""Pictures of environments: what they show is the place, and nothing of the task."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from classic_metarl.problems.pictures import REACH, Pictures
from mrt.control.agent import RandomAgent
from mrt.control.envs import make_env, make_tasks
from mrt.control.envs.base import EnvTasks
from mrt.control.oracles import task_bounds
from mrt.control.rollout import rollout
from mrt.errors import ConfigError

NAME = "classic_metarl.problems.pictures:Pictures"


def centre(picture: Tensor, side: int) -> Tensor:
    """(B, 2) centre of mass, x and y, in [0, 1]."""
    square = picture.view(-1, side, side)
    along = (torch.arange(side) + 0.5) / side
    mass = square.sum((1, 2))
    return torch.stack([(square.sum(1) * along).sum(1), (square.sum(2) * along).sum(1)], 1) / mass[:, None]


def test_a_point_is_where_it_is_drawn() -> None:
    env = Pictures("point-robot")
    tasks = EnvTasks(env)
    env.reset(tasks.batch(0, range(200)), seed=1)
    where = env.state["position"]
    assert env.spec.observation == 32 * 32
    picture = env.observe()
    assert float(picture.min()) >= 0
    assert float(picture.max()) <= 1
    torch.testing.assert_close(centre(picture, 32), (where / REACH + 1) / 2, atol=0.01, rtol=0.0)
    env.params["goal"] = -env.params["goal"]
    assert torch.equal(env.observe(), picture), "the goal is not shown"


def test_a_trial_in_pictures_is_that_of_the_environment_within() -> None:
    options = {"episodes": 2, "steps": 5}
    plain = make_tasks("sparse-semicircle", **options)
    drawn = make_tasks(env=NAME, of="sparse-semicircle", options=options)
    both = []
    for tasks in (plain, drawn):
        trials = rollout(
            tasks.env, RandomAgent(tasks.env.spec), tasks.batch(0, range(6)), seed=2, facts=["dense_reward"]
        )
        both.append(trials)
    assert torch.equal(both[0].rewards, both[1].rewards)
    assert torch.equal(both[0].privileged["dense_reward"], both[1].privileged["dense_reward"])
    shown = centre(both[1].inputs["observation"].flatten(0, 1), 32).view(6, -1, 2)
    torch.testing.assert_close(shown, (both[0].inputs["observation"] / REACH + 1) / 2, atol=0.01, rtol=0.0)
    params = plain.batch(0, range(3))
    assert torch.equal(task_bounds(drawn.env, params).ceiling, task_bounds(plain.env, params).ceiling)


def test_a_room_shows_its_cell_as_a_square() -> None:
    env: Any = Pictures("grid-navi")
    env.reset(EnvTasks(env).batch(0, range(1)), seed=1)
    pictures = []
    for cell in range(25):
        env.state["cell"] = torch.tensor([cell])
        picture = env.observe()
        torch.testing.assert_close(centre(picture, 32)[0], (env.env.xy[cell].float() + 0.5) / 5, atol=0.01, rtol=0.0)
        pictures.append(picture)
    assert len(torch.cat(pictures).unique(dim=0)) == 25


def test_mistakes_are_told() -> None:
    with pytest.raises(ConfigError, match="not of 'bernoulli-bandit'"):
        Pictures("bernoulli-bandit")
    with pytest.raises(ConfigError, match="not of 'point-robot'"):
        Pictures("point-robot", {"show_goal": True})
    with pytest.raises(ConfigError, match="side=4 must be at least 8"):
        make_env(env=NAME, side=4)
