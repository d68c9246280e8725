"""Exact values of the grid, maze and navigation tasks: the published targets, and checks by other means."""

import math
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

from mrt.control.agent import RandomAgent
from mrt.control.envs.base import EnvTasks
from mrt.control.envs.buses import BusGrid, MapGrid
from mrt.control.envs.corridors import Hallway, TMaze
from mrt.control.envs.grids import DarkRoom, GridNavi, KeyToDoor
from mrt.control.envs.mazes import Maze
from mrt.control.envs.navigation import FourCorners, Navigation2D, PointRobot, SparseSemicircle
from mrt.control.interaction import play
from mrt.control.oracles import grids, navigation
from mrt.control.oracles.base import mean_and_se
from mrt.control.oracles.bounds import floor_and_ceiling
from mrt.control.oracles.buses import uninformed_bus
from mrt.control.oracles.grids import episode_values, first_episode_bound, grid_navi_bayes, known_task
from mrt.control.oracles.hallway import hallway_bayes, hallway_posterior_sampling, hallway_steps
from mrt.errors import ConfigError
from tests.support.players import FarmingPolicy, random_point_return, random_return

# ---- GridNavi


def test_gridnavi_reaches_its_published_targets() -> None:
    bayes = grid_navi_bayes(GridNavi())
    assert bayes.first == pytest.approx(4.000, abs=5e-4)
    assert bayes.later == pytest.approx(11.071, abs=5e-4)
    assert bayes.total(2) == pytest.approx(15.071, abs=5e-4)
    assert bayes.total(4) == pytest.approx(37.214, abs=5e-4)
    assert random_return(GridNavi()) == pytest.approx(-1.165, abs=5e-4)


def test_the_bayes_optimal_gridnavi_policy_earns_its_values_when_played() -> None:
    """Sweep until the goal is seen; in later episodes go there, or first along the one path of what is left."""
    env = GridNavi()
    bayes, goals = grid_navi_bayes(env), env.all_tasks()["goal"]
    left = [goal for goal in goals.tolist() if goal not in bayes.path]
    left.sort(key=lambda cell: cell // 5 + cell % 5)
    env.reset({"goal": goals})
    returns = torch.zeros(21, 4)
    for _ in range(4 * 15 + 3):
        actions = []
        for row, goal in enumerate(goals.tolist()):
            here, clock, episode = int(env.state["cell"][row]), int(env.clock[row]), int(env.episode[row])
            if goal in bayes.path:
                searching = episode == 0 and (goal not in bayes.path[:clock])
                target = bayes.path[clock] if searching and clock < 15 else goal
            else:
                ahead = [cell for cell in left if cell // 5 + cell % 5 > here // 5 + here % 5]
                target = bayes.path[min(clock, 14)] if episode == 0 else goal if here == goal else ahead[0]
            dx, dy = target // 5 - here // 5, target % 5 - here % 5
            actions.append(1 if dy > 0 else 2 if dx > 0 else 3 if dy < 0 else 4 if dx < 0 else 0)
        step = env.step(torch.tensor(actions))
        returns[torch.arange(21), env.episode] += step.reward
    assert returns.mean(0).tolist() == pytest.approx([bayes.first] + 3 * [bayes.later], abs=1e-5)


def belief_optimum(size: int, steps: int, episodes: int) -> float:
    """GridNavi's Bayes-optimal value by dynamic programming over (cell, cells that may hold the goal)."""
    cells = list(product(range(size), repeat=2))
    goals = frozenset(cell for cell in cells if max(cell) > 1)

    def neighbours(cell):
        x, y = cell
        return {(min(max(x + dx, 0), size - 1), y) for dx in (-1, 0, 1)} | {
            (x, min(max(y + dy, 0), size - 1)) for dy in (-1, 1)
        }

    def known(cell, goal, left, later):
        away = max(abs(cell[0] - goal[0]) + abs(cell[1] - goal[1]), 1 if cell != goal else 0)
        now = left * 1.0 if not away else -0.1 * min(away - 1, left) + 1.0 * max(left - away + 1, 0)
        return now + sum(known((0, 0), goal, steps, 0) for _ in range(later))

    @cache
    def value(cell, unknown, left, later):
        if left == 0:
            return value((0, 0), unknown, steps, later - 1) if later else 0.0
        best = -math.inf
        for after in neighbours(cell):
            if after in unknown:
                rest = unknown - {after}
                seen = 1.0 + known(after, after, left - 1, later)
                missed = -0.1 + value(after, rest, left - 1, later) if rest else 0.0
                total = (seen + len(rest) * missed) / len(unknown)
            else:
                total = -0.1 + value(after, unknown, left - 1, later)
            best = max(best, total)
        return best

    return value((0, 0), goals, steps, episodes - 1)


@pytest.mark.parametrize(("size", "steps", "episodes"), [(3, 5, 1), (3, 5, 2), (3, 6, 3)])
def test_gridnavi_bound_is_the_optimum_of_a_dynamic_program(size: int, steps: int, episodes: int) -> None:
    env = GridNavi(size, steps, episodes)
    assert grid_navi_bayes(env).total(episodes) == pytest.approx(belief_optimum(size, steps, episodes), abs=1e-6)


def test_gridnavi_bound_of_a_single_episode() -> None:
    env = GridNavi(4, 7, 1)
    assert grids.sweep(env) is not None
    assert first_episode_bound(env) == pytest.approx(belief_optimum(4, 7, 1), abs=1e-6)


def test_rooms_without_a_sweep_that_is_optimal_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="optimal twice"):
        grid_navi_bayes(GridNavi(4, 5))
    with pytest.raises(ConfigError, match="start='random'"):
        first_episode_bound(DarkRoom(start="random"))


# ---- Dark Room, Key-to-Door


def test_dark_room_9x9() -> None:
    env = DarkRoom.named("ad")
    assert known_task(env) == pytest.approx(16.543, abs=5e-4)
    assert first_episode_bound(env) == pytest.approx(2.593, abs=5e-4)
    # Random moves keep the uniform distribution over cells, and so over (cell - goal): 1 / 81 a step, exactly.
    assert random_return(env) == pytest.approx(20 / 81, abs=1e-9)


def test_dark_room_10x10() -> None:
    env = DarkRoom.named("dpt")
    assert known_task(env) == pytest.approx(91.99, abs=5e-4)
    assert first_episode_bound(env) == pytest.approx(50.5, abs=1e-9)
    assert random_return(env) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("convention", ["ad", "ad_hard", "dpt"])
def test_a_sweep_reaches_the_bound_of_the_first_episode(convention: str) -> None:
    env = DarkRoom.named(convention, episodes=1)
    path = grids.sweep(env)
    assert path is not None
    goals = env.all_tasks()["goal"]
    env.reset({"goal": goals})
    total, found = torch.zeros(len(goals)), torch.zeros(len(goals), dtype=torch.bool)
    for cell in path:
        here = env.state["cell"]
        dx, dy = cell // env.size - here // env.size, cell % env.size - here % env.size
        go = torch.where(dy == 1, 1, torch.where(dx == 1, 2, torch.where(dy == -1, 3, torch.where(dx == -1, 4, 0))))
        step = env.step(torch.where(found, 0, go))
        total, found = total + step.reward, found | (step.reward > 0)
    assert float(total.mean()) == pytest.approx(first_episode_bound(env), abs=1e-6)


@pytest.mark.slow
def test_dark_room_hard() -> None:
    env = DarkRoom.named("ad_hard")
    assert known_task(env) == 1
    assert random_return(env) == pytest.approx(0.0373, abs=5e-5)


def test_key_to_door_pays_two_to_whoever_knows() -> None:
    for convention in ("ad", "amago"):
        env = KeyToDoor.named(convention)
        params = EnvTasks(env).batch(0, range(20))
        assert torch.equal(episode_values(env, params), torch.full((20,), 2.0).double())
    every = KeyToDoor(3, 12, pays="every")
    params = every.all_tasks()
    apart = (every.xy[params["key"]] - every.xy[params["door"]]).abs().sum(1)
    reach = (every.xy[params["key"]] - 1).abs().sum(1)
    # One step at least for each of key and door, then the door pays for every step that is left.
    wanted = 1 + 12 - reach.clamp(min=1) - apart.clamp(min=1) + 1
    assert torch.equal(episode_values(every, params), wanted.double())


@pytest.mark.slow
def test_key_to_door_over_all_tasks() -> None:
    env = KeyToDoor.named("ad")
    assert known_task(env) == 2
    params = EnvTasks(env).batch(3, range(20_000))
    mean, se = mean_and_se(play(env.with_spec(episodes=1), RandomAgent(env.spec, seed=1), params)[:, 0])
    assert abs(random_return(env) - mean) < 4 * se


# ---- corridors


@pytest.mark.parametrize("kind", ["passive", "active"])
@pytest.mark.parametrize("corridor", [1, 10, 50])
def test_t_maze_optimum_is_one(kind: str, corridor: int) -> None:
    assert known_task(TMaze(kind, corridor)) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("corridor", [2, 5])
def test_the_best_memoryless_policy_of_the_passive_t_maze_gets_one_half(corridor: int) -> None:
    """All 4^6 maps from the six observations to actions, played on both tasks."""
    env = TMaze("passive", corridor)
    policies = torch.cartesian_prod(*[torch.arange(4)] * 6)
    env.reset({"side": torch.tensor([-1, 1]).repeat_interleave(len(policies))})
    table, rows, total = policies.repeat(2, 1), torch.arange(2 * len(policies)), 0.0
    for _ in range(env.spec.episode_steps):
        seen = env.observe().long()
        step = env.step(table[rows, 3 * seen[:, 0] + seen[:, 1] + 1])
        total = total + step.reward
    assert float(total.view(2, -1).mean(0).max()) == 0.5  # type: ignore[attr-defined]


def hallway_belief(env: Hallway) -> float:
    """Bayes-optimal return of a trial, over (place, depth, which side is known, steps left, episodes left)."""

    @cache
    def value(place, depth, side, left, later):
        if left == 0:
            return value(0, 0, side, env.spec.episode_steps, later - 1) if later else 0.0
        moves = [(place + d, depth) for d in (-1, 1) if depth == 0 and abs(place + d) <= env.half]
        moves += [(place, depth + d) for d in (-1, 1) if place == 0 and 0 <= depth + d <= env.dead_end]
        return max(-env.cost + outcome(*move, side, left - 1, later) for move in moves)

    def outcome(place, depth, side, left, later):
        told = depth > 0 and depth == env.dead_end
        if side == 0 and (told or abs(place) == env.half):
            return sum(outcome(place, depth, known, left, later) for known in (-1, 1)) / 2
        if side and place == side * env.half:
            return 1 + (value(0, 0, side, env.spec.episode_steps, later - 1) if later else 0)
        return value(place, depth, side, left, later)

    return value(0, 0, 0, env.spec.episode_steps, env.spec.episodes - 1)


@pytest.mark.parametrize("half", [1, 2, 4, 5])
@pytest.mark.parametrize("dead_end", [0, 1, 2, 3])
def test_hallway_closed_form_is_the_optimum_over_beliefs(half: int, dead_end: int) -> None:
    env = Hallway(half, dead_end, cost=0.02, episodes=2)
    assert hallway_bayes(env) == pytest.approx(hallway_belief(env), abs=1e-9)
    assert known_task(env) == pytest.approx(1 - half * env.cost, abs=1e-6)
    first, later = hallway_steps(half, dead_end)
    assert (first < 2 * half) == (0 < 2 * dead_end < half)  # the switch point
    assert (first, later) == (2 * dead_end + half if first < 2 * half else 2 * half, half)


def test_hallway_in_numbers() -> None:
    assert hallway_bayes(Hallway(5, 0, 0.02, episodes=3)) == pytest.approx(0.8 + 2 * 0.9)
    assert hallway_bayes(Hallway(5, 2, 0.02, episodes=3)) == pytest.approx(0.82 + 2 * 0.9)
    assert hallway_posterior_sampling(Hallway(5, 0, 0.02, episodes=3)) == pytest.approx((0.9 - 0.3) / 2 + 2 * 0.9)


# ---- bus and map grids, mazes


@pytest.mark.parametrize("env", [BusGrid(), MapGrid()], ids=lambda env: env.name)
def test_bus_grids_are_worth_their_exploration(env: BusGrid) -> None:
    tasks = env.all_tasks()
    assert known_task(env) == pytest.approx(0.8, abs=1e-6)
    walking = episode_values(env, tasks, actions=[0, 1, 2, 3, 4])
    assert walking.tolist() == pytest.approx([0.3] * 24, abs=1e-6)
    for corner in range(4):
        assert uninformed_bus(env, corner) == pytest.approx(0.3, abs=1e-9)


def test_maze_optimum_is_the_shortest_path() -> None:
    for view, size in (("symbolic", 4), ("first_person", 3)):
        env = Maze(size, view, openings=0.2, steps=60)
        params = EnvTasks(env).batch(0, range(30))
        values = episode_values(env, params)
        lengths = [shortest(env, {name: value[i] for name, value in params.items()}) for i in range(30)]
        assert values.tolist() == pytest.approx([1 - 0.04 * length for length in lengths], abs=1e-5)


def shortest(env: Maze, task) -> int:
    """Breadth first, over (cell, heading) where turns take a step."""
    front, seen, steps = {(int(task["start"]), 0)}, set(), 0
    while all(cell != int(task["goal"]) for cell, _ in front):
        seen |= front
        steps += 1
        reached = set()
        for cell, heading in front:
            ways = [heading] if env.turns else range(4)
            free = [d for d in ways if int(task["open"][cell]) >> d & 1]
            reached |= {(cell + int(env.offsets[d]), heading) for d in free}
            reached |= {(cell, (heading + turn) % 4) for turn in (-1, 1)} if env.turns else set()
        front = reached - seen
    return steps


# ---- random play, floors and ceilings

FINITE = {
    "gridnavi": GridNavi(episodes=1),
    "dark room": DarkRoom(5, 10, 1),
    "dark room, random start": DarkRoom(4, 10, 1, start="random"),
    "key to door": KeyToDoor(4, 20, 1, pays="ends"),
    "t-maze": TMaze("active", 3),
    "hallway": Hallway(2, 2, episodes=1),
    "maze": Maze(3, steps=30, episodes=1),
    "maze, first person": Maze(3, "first_person", steps=40, episodes=1, pixels=2),
    "bus": BusGrid(episodes=1, free_episodes=0),
}


@pytest.mark.parametrize("name", FINITE)
def test_random_play_earns_the_value_of_the_random_policy(name: str) -> None:
    env = FINITE[name]
    params = EnvTasks(env).batch(1, range(3000))
    if env.task_choices:
        exact = random_return(env)
    else:
        params = {key: value[:40].repeat(75, *[1] * (value.ndim - 1)) for key, value in params.items()}
        exact = random_return(env, {key: value[:40] for key, value in params.items()})
    mean, se = mean_and_se(play(env, RandomAgent(env.spec, seed=1), params)[:, 0])
    assert abs(mean - exact) < 4 * se


def test_floor_and_ceiling_are_of_the_whole_trial_and_leave_free_episodes_out() -> None:
    env = GridNavi()
    bounds = floor_and_ceiling(env, env.all_tasks())
    assert float(bounds.ceiling.mean()) == pytest.approx(4 * 11.0714, abs=1e-3)
    assert float(bounds.floor.mean()) == pytest.approx(4 * -1.1655, abs=1e-3)
    bus = BusGrid(episodes=3)
    assert floor_and_ceiling(bus, bus.all_tasks()).ceiling.tolist() == pytest.approx([1.6] * 24, abs=1e-6)
    point = SparseSemicircle(episodes=2)
    tasks = EnvTasks(point).batch(0, range(20))
    bounds = floor_and_ceiling(point, tasks)
    played = play(point, navigation.StraightPolicy(point), tasks).sum(1)
    assert bounds.ceiling.tolist() == pytest.approx(played.tolist(), abs=1e-3)
    assert (bounds.floor < 1).all()


# ---- navigation


@pytest.mark.parametrize(
    ("env", "straight", "still"),
    [
        (PointRobot(), -5.1875, -20.856),
        (Navigation2D(), -0.5061, -38.260),
        (FourCorners(), 2.619, 0.0),
        (SparseSemicircle(), 13.382, 0.0),
        (SparseSemicircle("dense"), -3.8408, -20.0),
    ],
    ids=["point robot", "2-D navigation", "four corners", "semicircle", "semicircle, dense"],
)
def test_navigation_targets_by_quadrature_and_by_play(env, straight: float, still: float) -> None:
    assert navigation.known_task(env) == pytest.approx(straight, abs=5e-4)
    assert navigation.stay(env) == pytest.approx(still, abs=1e-3)
    once = env.with_spec(episodes=1)
    params = EnvTasks(once).batch(0, range(2000))
    mean, se = mean_and_se(play(once, navigation.StraightPolicy(once), params)[:, 0])
    assert abs(mean - straight) < 4 * se


def test_stay_has_closed_forms() -> None:
    """Mean distance of a point in a square from its centre, and of two points in a square of side 2."""
    centre = (math.sqrt(2) + math.log(1 + math.sqrt(2))) / 6
    pair = 2 * (2 + math.sqrt(2) + 5 * math.log(1 + math.sqrt(2))) / 15
    assert navigation.stay(Navigation2D()) == pytest.approx(-100 * centre, abs=1e-3)
    assert navigation.stay(PointRobot()) == pytest.approx(-20 * pair, abs=1e-3)


def test_pearls_own_hundred_goals_give_a_little_less() -> None:
    """13.36 is the mean over goals at 100 even angles in float64, where eight steps of 0.1 end just short of 0.8."""
    total = []
    for angle in np.linspace(0, np.pi, 100):
        goal, place, gained = np.array([np.cos(angle), np.sin(angle)]), np.zeros(2), 0.0
        for _ in range(20):
            place = place + np.clip(goal - place, -0.1, 0.1)
            away = np.hypot(*(place - goal))
            gained += 1 - away if away <= 0.2 else 0.0
        total.append(gained)
    assert np.mean(total) == pytest.approx(13.36, abs=5e-3)
    assert min(total) == pytest.approx(11.9, abs=1e-6)


def test_random_play_of_the_point_environments() -> None:
    wanted = {  # mean and standard error of 40,000 tasks
        PointRobot: (-21.30, 0.05),
        SparseSemicircle: (0.0005, 0.0002),
        Navigation2D: (-61.41, 0.13),
        FourCorners: (0.456, 0.003),
    }
    for kind, (value, error) in wanted.items():
        mean, se = random_point_return(kind(), 1000, seed=2)
        assert abs(mean - value) < 4 * math.hypot(se, error)


def test_the_four_corners_can_be_farmed() -> None:
    """A policy that leaves the unpaid middle over and over earns six times what going to the goal earns."""
    env = FourCorners(episodes=1)
    params = EnvTasks(env).batch(0, range(400))
    farmed = play(env, FarmingPolicy(env), params)[:, 0]
    assert float(farmed.min()) > 14.5
    assert float(play(env, navigation.StraightPolicy(env), params).max()) < 2.83
