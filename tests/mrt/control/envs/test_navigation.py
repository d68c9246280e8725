"""The point environments against plain-Python references."""

import math

import pytest
import torch

from mrt.control.envs.base import EnvTasks
from mrt.control.envs.navigation import FourCorners, Navigation2D, PointRobot, SparseSemicircle
from tests.support.references_grids import (
    FourCornersReference,
    Navigation2DReference,
    PointRobotReference,
    SemicircleReference,
    assert_copies_go_on,
    assert_equal_play,
    assert_everything_is_the_same_everywhere,
    assert_same_tasks,
)

pytestmark = pytest.mark.training

PAIRS = {
    "point robot": (PointRobot(episodes=3), PointRobotReference),
    "semicircle": (SparseSemicircle(), SemicircleReference),
    "semicircle, dense": (SparseSemicircle("dense"), lambda u: SemicircleReference(u, "dense")),
    "2-D navigation": (Navigation2D(episodes=2), Navigation2DReference),
    "2-D navigation, squared": (Navigation2D(True), lambda u: Navigation2DReference(u, True)),
    "four corners": (FourCorners(), FourCornersReference),
    "four corners, dense": (FourCorners("dense"), lambda u: FourCornersReference(u, "dense")),
}


@pytest.mark.parametrize("name", PAIRS)
def test_reference_steps_beside(name: str) -> None:
    env, make = PAIRS[name]
    rewards = assert_equal_play(env, make)
    assert name == "semicircle" or len(rewards.unique()) > 100  # nobody finds the semicircle's goal by chance


def test_reference_steps_beside_where_goals_are_found() -> None:
    """Goals near the start, so that the sparse reward and the end near the goal happen."""
    env = SparseSemicircle(radius=0.95)
    assert len(assert_equal_play(env, Wide).unique()) > 50
    close = Close(steps=200, episodes=2)
    rewards = assert_equal_play(close, CloseReference)
    assert (rewards[-1] == 0).any()  # some trials were over long before the last step


class Wide(SemicircleReference):
    """A goal that is 0.95 wide."""

    def pay(self, before, after):
        return (1 - float(after) if float(after) <= 0.95 else 0.0), False


class Close(Navigation2D):
    """Goals within 0.05 of the origin, and an end within 0.06 of the goal."""

    near = 0.06

    def task_params(self, u):
        return {"goal": (u - 0.5) * 0.1}


class CloseReference(Navigation2DReference):
    def __init__(self, u):
        super().__init__(u)
        self.goal = [x * type(x)(0.1) for x in self.goal]

    def pay(self, before, after):
        return -after, all(abs(float(x - g)) < 0.06 for x, g in zip(self.at, self.goal, strict=True))


@pytest.mark.parametrize("name", PAIRS)
def test_tasks_and_copies(name: str) -> None:
    env, _ = PAIRS[name]
    if isinstance(env, FourCorners):  # four tasks, too few to be split
        assert_same_tasks(env)
        assert_copies_go_on(env)
    else:
        assert_everything_is_the_same_everywhere(env)


def test_dense_and_sparse_rewards_share_tasks_and_paths() -> None:
    sparse, dense = SparseSemicircle(), SparseSemicircle("dense")
    tasks = [EnvTasks(env).batch(0, range(40)) for env in (sparse, dense)]
    assert torch.equal(tasks[0]["goal"], tasks[1]["goal"])
    assert sparse.task_key(tasks[0], 3) == dense.task_key(tasks[1], 3)
    sparse.reset(tasks[0])
    dense.reset(tasks[1])
    for _ in range(20):
        action = tasks[0]["goal"] / 2
        few, all_the_way = sparse.step(action), dense.step(action)
        assert torch.equal(few.observation, all_the_way.observation)
        assert torch.equal(sparse.dense_reward(), all_the_way.reward)
        near = all_the_way.reward >= -0.2
        assert torch.equal(few.reward, torch.where(near, 1 + all_the_way.reward, 0.0))
    assert near.any()


def test_goals_lie_where_they_should() -> None:
    u = torch.rand(500, 2)
    ring = SparseSemicircle().task_params(u)["goal"]
    assert torch.allclose(ring.norm(dim=1), torch.ones(500))
    assert (ring[:, 1] >= 0).all()
    assert SparseSemicircle().task_params(torch.tensor([[0.5]]))["goal"][0].tolist() == pytest.approx([0, 1], abs=1e-7)
    assert PointRobot().task_params(u)["goal"].abs().max() <= 1
    assert Navigation2D().task_params(u)["goal"].abs().max() <= 0.5
    corners = FourCorners().task_params((torch.arange(4)[:, None] + 0.5) / 4)["goal"]
    assert corners.tolist() == [[-2, -2], [2, -2], [-2, 2], [2, 2]]


def test_actions_are_clamped_to_the_box() -> None:
    env = PointRobot()
    env.reset(EnvTasks(env).batch(0, range(3)))
    before = env.state["position"]
    after = env.step(torch.tensor([[5.0, -5.0]] * 3)).observation
    assert torch.allclose(after - before, torch.tensor([[0.1, -0.1]]).expand(3, 2), atol=1e-6)


def test_four_corners_pay_progress_in_the_goals_quadrant_only() -> None:
    env = FourCorners(episodes=1)
    goal = torch.tensor([[2.0, 2.0]]).repeat(4, 1)
    env.reset({"goal": goal})
    env.state["position"] = torch.tensor([[0.3, 0.3], [0.0, 0.1], [-0.3, 0.3], [0.5, 0.5]])
    reward = env.step(torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.5, 0.5], [-1.0, -1.0]])).reward
    root = math.sqrt(2) * 0.2
    assert reward.tolist() == pytest.approx([root, 0, 0, -root], abs=1e-6)


def test_a_shown_goal_is_seen_beside_the_position_and_changes_nothing_else() -> None:
    hidden, shown = EnvTasks(PointRobot()), EnvTasks(PointRobot(show_goal=True))
    params = hidden.batch(0, range(5))
    first, both = hidden.env.reset(params, 1), shown.env.reset(params, 1)
    assert (hidden.env.spec.observation, shown.env.spec.observation) == (2, 4)
    assert torch.equal(both, torch.cat([first, params["goal"]], 1))
    actions = torch.rand(5, 2)
    here, there = hidden.env.step(actions), shown.env.step(actions)
    assert torch.equal(here.reward, there.reward)
    assert torch.equal(there.observation, torch.cat([here.observation, params["goal"]], 1))
    assert hidden.env.task_key(params, 3) == shown.env.task_key(params, 3)
