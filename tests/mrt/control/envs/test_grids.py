"""GridNavi, Dark Room, Key-to-Door, T-Maze and hallway against their plain-Python references."""

import pytest
import torch

from mrt.control.envs.base import EnvTasks
from mrt.control.envs.corridors import Hallway, TMaze
from mrt.control.envs.grids import DarkRoom, GridNavi, KeyToDoor, midpoints, pick
from mrt.errors import ConfigError
from tests.support.references_grids import (
    DarkRoomReference,
    GridNaviReference,
    HallwayReference,
    KeyToDoorReference,
    TMazeReference,
    assert_copies_go_on,
    assert_equal_play,
    assert_everything_is_the_same_everywhere,
    assert_same_tasks,
)

pytestmark = pytest.mark.training

PAIRS = {
    "gridnavi": (GridNavi(), GridNaviReference),
    "gridnavi one-hot": (GridNavi(encoding="one_hot"), lambda u: GridNaviReference(u, encoding="one_hot")),
    "dark room, AD": (DarkRoom.named("ad", 3), DarkRoomReference),
    "dark room, AD hard": (DarkRoom.named("ad_hard", 2), lambda u: DarkRoomReference(u, size=17, pays="once")),
    "dark room, DPT": (DarkRoom.named("dpt", 2), lambda u: DarkRoomReference(u, size=10, start="corner")),
    "dark room, ends": (
        DarkRoom(4, 12, 3, start="random", pays="ends", encoding="xy"),
        lambda u: DarkRoomReference(u, 4, "random", "ends", "xy"),
    ),
    "dark room, once": (DarkRoom(3, 12, 3, pays="once"), lambda u: DarkRoomReference(u, 3, pays="once")),
    "dark room, start of the task": (DarkRoom(4, start="task"), lambda u: DarkRoomReference(u, 4, "task")),
    "key to door, AD": (KeyToDoor.named("ad", 2), KeyToDoorReference),
    "key to door, AMAGO": (
        KeyToDoor.named("amago", 2),
        lambda u: KeyToDoorReference(u, start="task", pays="ends", aware=True, encoding="xy"),
    ),
    "key to door, small, every": (
        KeyToDoor(3, 20, 3, pays="every", aware=True),
        lambda u: KeyToDoorReference(u, 3, pays="every", aware=True, steps=20),
    ),
    "key to door, small, ends": (KeyToDoor(3, 40, 4, pays="ends"), lambda u: KeyToDoorReference(u, 3, pays="ends")),
    "key to door, small, once": (KeyToDoor(3, 40, 4), lambda u: KeyToDoorReference(u, 3)),
    "t-maze, passive": (TMaze("passive", 3, episodes=3), lambda u: TMazeReference(u, "passive", 3)),
    "t-maze, active": (TMaze("active", 2, episodes=3), lambda u: TMazeReference(u, "active", 2)),
    "t-maze, no penalty": (TMaze("active", 1, 0.0, 4), lambda u: TMazeReference(u, "active", 1, 0.0)),
    "hallway": (Hallway(3, episodes=4), lambda u: HallwayReference(u, 3)),
    "hallway, dead end": (Hallway(2, 2, 0.1, steps=30, episodes=3), lambda u: HallwayReference(u, 2, 2, 0.1)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_reference_steps_beside(name: str) -> None:
    env, make = PAIRS[name]
    rewards = assert_equal_play(env, make)
    assert len(rewards.unique()) > 1  # something was found on the way


@pytest.mark.parametrize("name", PAIRS)
def test_tasks_copies_and_splits(name: str) -> None:
    env, _ = PAIRS[name]
    if env.task_choices == (2,):  # too few to be split
        assert_same_tasks(env)
        assert_copies_go_on(env)
    else:
        assert_everything_is_the_same_everywhere(env)


@pytest.mark.parametrize("env", [TMaze(), TMaze("active"), Hallway(dead_end=2)], ids=lambda env: env.name)
def test_two_tasks_are_equally_likely(env: TMaze) -> None:
    assert env.all_tasks()["side"].tolist() == [-1, 1]
    sides = EnvTasks(env).batch(0, range(4000))["side"].double()
    assert abs(float(sides.mean())) < 4 / 4000**0.5


def test_pick_never_reaches_n() -> None:
    u = torch.tensor([0.0, 1 - 2.0**-24])
    for n in (2, 3, 21, 81, 6561):
        assert pick(u, n).tolist() == [0, n - 1]
        assert pick(midpoints((n,))[:, 0], n).tolist() == list(range(n))
    assert midpoints((2, 3)).shape == (6, 2)
    assert midpoints(()).shape == (1, 0)


def test_gridnavi_has_21_goals_and_never_shows_them() -> None:
    env = GridNavi()
    goals = env.all_tasks()["goal"]
    assert len(set(goals.tolist())) == 21
    assert not {0, 1, 5, 6} & set(goals.tolist())
    seen = env.reset({"goal": goals})
    for _ in range(8):
        assert (seen == seen[0]).all()
        seen = env.step(torch.full((21,), 2)).observation


def test_the_goal_pays_every_step_once_or_ends_it() -> None:
    """The goal is the start: five actions that stay there."""
    paid = {}
    for pays in ("every", "once", "ends"):
        env = DarkRoom(3, 5, 2, start="corner", pays=pays)
        env.reset({"goal": torch.zeros(1, dtype=torch.long)})
        paid[pays] = [float(env.step(torch.zeros(1, dtype=torch.long)).reward) for _ in range(8)]
    assert paid["every"] == [1, 1, 1, 1, 1, 0, 1, 1]
    assert paid["once"] == [1, 0, 0, 0, 0, 0, 1, 0]
    assert paid["ends"][:3] == [1, 0, 1]  # after which the trial is over


def test_key_and_door_in_one_cell_need_two_steps() -> None:
    for pays, wanted in (("once", [1, 1, 0, 0]), ("every", [1, 1, 1, 1])):
        env = KeyToDoor(3, 4, 1, start="corner", pays=pays)
        place = torch.zeros(1, dtype=torch.long)
        env.reset({"key": place, "door": place})
        assert [float(env.step(place).reward) for _ in range(4)] == wanted


@pytest.mark.parametrize("kind", ["passive", "active"])
def test_t_maze_shows_its_cue_once(kind: str) -> None:
    env = TMaze(kind, corridor=4)
    seen = [env.reset(env.all_tasks())]
    actions = [2, 2, 0, 2] if kind == "active" else [2, 0, 2]
    seen += [env.step(torch.full((2,), action)).observation for action in actions]
    shown = [i for i, observation in enumerate(seen) if observation[:, 1].any()]
    assert shown == [kind == "active"]
    assert seen[shown[0]][:, 1].tolist() == [-1, 1]


def test_hallway_refuses_too_few_steps() -> None:
    with pytest.raises(ConfigError, match="steps=14"):
        Hallway(half=5, steps=14)


def test_tasks_too_many_to_list_are_named() -> None:
    env = GridNavi()
    env.task_choices = ()
    with pytest.raises(ConfigError, match=r"EnvTasks\(env\)\.batch"):
        env.all_tasks()
