"""Mazes, their views, bus and map grids against plain-Python references."""

from itertools import permutations

import numpy as np
import pytest
import torch

from mrt.control.envs.base import EnvTasks, uniforms
from mrt.control.envs.buses import BusGrid, MapGrid
from mrt.control.envs.maze_views import walls
from mrt.control.envs.mazes import Maze, edges, spanning_trees
from mrt.errors import ConfigError
from tests.support.references_grids import (
    BusReference,
    MazeReference,
    assert_equal_play,
    assert_everything_is_the_same_everywhere,
)

PAIRS = {
    "symbolic": (Maze(3, steps=40), lambda u: MazeReference(u, 3)),
    "symbolic, openings": (Maze(4, openings=0.4, steps=40), lambda u: MazeReference(u, 4, openings=0.4)),
    "top down": (Maze(3, "top_down", steps=40), lambda u: MazeReference(u, 3, "top_down")),
    "top down, large": (Maze(5, "top_down", openings=0.2, steps=30), lambda u: MazeReference(u, 5, "top_down", 0.2)),
    "first person": (
        Maze(3, "first_person", openings=0.1, steps=25, pixels=8),
        lambda u: MazeReference(u, 3, "first_person", 0.1, 8),
    ),
    "bus": (BusGrid(episodes=3), BusReference),
    "map": (MapGrid(), lambda u: BusReference(u, shows_map=True)),
    "bus, no exploration": (BusGrid(30, 3, 0), lambda u: BusReference(u, steps=30, free_episodes=0)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_reference_steps_beside(name: str) -> None:
    env, make = PAIRS[name]
    rewards = assert_equal_play(env, make, tasks=16 if name == "first person" else 30)
    assert len(rewards.unique()) > 1


@pytest.mark.parametrize("name", PAIRS)
def test_tasks_copies_and_splits(name: str) -> None:
    assert_everything_is_the_same_everywhere(PAIRS[name][0])


def test_every_cell_of_a_maze_is_reached_in_one_way() -> None:
    size = 5
    env = Maze(size)
    params = EnvTasks(env).batch(0, range(100))
    assert (spanning_trees(torch.rand(100, len(edges(size))), size).sum(1) == size * size - 1).all()
    passages = params["open"].view(100, size, size)
    up, right, down, left = ((passages >> d) & 1 for d in range(4))
    assert (up[:, :, :-1] == down[:, :, 1:]).all()
    assert (right[:, :-1] == left[:, 1:]).all()
    for border in (up[:, :, -1], down[:, :, 0], right[:, -1], left[:, 0]):
        assert not border.any()
    # A flood from the start, cell by cell, fills everything; with as few passages as that, it is a tree.
    reached = torch.nn.functional.one_hot(params["start"], size * size).view(100, size, size)
    for _ in range(size * size):
        reached = reached.clone()
        reached[:, :, 1:] |= reached[:, :, :-1] & up[:, :, :-1]
        reached[:, 1:] |= reached[:, :-1] & right[:, :-1]
        reached[:, :, :-1] |= reached[:, :, 1:] & down[:, :, 1:]
        reached[:, :-1] |= reached[:, 1:] & left[:, 1:]
    assert reached.all()
    assert (params["start"] != params["goal"]).all()


def test_starts_and_goals_are_uniform() -> None:
    params = EnvTasks(Maze(2)).batch(1, range(6000))
    pairs = torch.bincount(params["start"] * 4 + params["goal"], minlength=16).view(4, 4)
    assert (pairs.diagonal() == 0).all()
    assert ((pairs[~torch.eye(4, dtype=torch.bool)] - 500).abs() < 4 * 500**0.5).all()


def test_first_person_sees_the_wall_ahead_and_the_goal() -> None:
    """A corridor of three cells upwards, the goal at its end: green until it is reached, brighter step by step."""
    env = Maze(3, "first_person", pixels=8)
    passages = torch.zeros(1, 9, dtype=torch.long)
    passages[0, :3] = torch.tensor([1, 5, 4])
    params = {"open": passages, "start": torch.tensor([0]), "goal": torch.tensor([2])}
    assert int((~walls(passages, 3)).sum()) == 9 + 2
    seen = [env.reset(params), env.step(torch.tensor([2])).observation]
    middle = [observation.view(3, 8, 8)[:, 4, 3:5] for observation in seen]
    for picture, depth in zip(middle, (3.5, 1.5), strict=True):
        assert picture[0].tolist() == [0, 0]
        np.testing.assert_allclose(picture[1], 1 / (1 + depth), rtol=1e-6)
    turned = env.step(torch.tensor([0])).observation.view(3, 8, 8)
    np.testing.assert_allclose(turned[:, 4, 3:5], 0.6 / 1.5, rtol=1e-6)  # a grey wall, half a tile ahead
    done = [env.step(torch.tensor([action])) for action in (1, 2)][-1]
    assert bool(done.terminated)
    assert float(done.reward) == pytest.approx(0.96)


def test_informed_rides_earn_the_optimum_in_every_task() -> None:
    """One step to the right bus, one ride, one step to the corner: 0.8. In the free episode before, nothing."""
    for corner, stop, last in ((0, 0, 3), (1, 3, 1), (2, 1, 1), (3, 2, 3)):
        env = BusGrid()
        env.reset(env.all_tasks())
        u = torch.full((24, 1), (corner + 0.5) / 4)
        env.step(torch.full((24,), 6), u)  # end the exploration
        env.step(torch.zeros(24, dtype=torch.long), u)
        orders = torch.tensor(list(permutations(range(4))))
        bus = (orders == stop).long().argmax(1)
        to_bus = torch.tensor([1, 2, 0, 3])[bus]
        steps = [env.step(actions, u) for actions in (to_bus, torch.full((24,), 5), torch.full((24,), last))]
        total = sum(step.reward for step in steps)
        assert steps[-1].terminated.all()
        np.testing.assert_allclose(total, 0.8, atol=1e-6)


def test_exploring_is_free_and_tells_no_corner() -> None:
    env = BusGrid()
    seen = env.reset(env.all_tasks())
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        assert not seen[:, 19:23].any()
        step = env.step(torch.randint(6, (24,), generator=generator))
        assert not step.reward.any()
        seen = step.observation
    assert (env.step(torch.zeros(24, dtype=torch.long)).observation[:, 19:23].sum(1) == 1).all()


def test_the_map_is_four_steps_away_and_tells_the_task() -> None:
    env = MapGrid()
    seen = env.reset(env.all_tasks())
    for action in (2, 2, 2, 3):
        assert not seen[:, 23:].any()
        seen = env.step(torch.full((24,), action)).observation
    assert torch.equal(seen[:, 23:], torch.eye(24))
    assert not env.step(torch.full((24,), 3)).observation[:, 23:].any()


def test_an_odd_number_of_pixels_is_refused() -> None:
    with pytest.raises(ConfigError, match="pixels=7"):
        Maze(3, "first_person", pixels=7)


def test_mazes_differ_between_tasks() -> None:
    env = Maze(4)
    params = env.task_params(uniforms(0, np.arange(200), env.task_draws))
    assert len({env.task_key(params, row) for row in range(200)}) == 200
