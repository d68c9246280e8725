"""What a policy did, as data for a picture: paths through rooms, mazes and planes; what was chosen, trial by trial.

A scene is JSON-able:
    kind "path": cells (squares to stand on) or limits (a plane), walls, and episodes with path, marks and return; of an
        agent that says what it believes also `believed`, the cells that its beliefs are of, and in every episode
        `beliefs`, a probability for each of them before every step
    kind "choices": rows (trials) of the worth of each choice: 1 the best one, 0 the worst
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from mrt.control.agent import Agent, Entrant
from mrt.control.envs.bandits import MovingBandits
from mrt.control.envs.base import EnvTasks, TensorEnv
from mrt.control.envs.buses import BUSES, MAP, SIZE, STOPS, BusGrid
from mrt.control.envs.corridors import Hallway, TMaze
from mrt.control.envs.decisions import ObjectChoice, TwoStep
from mrt.control.envs.grids import DarkRoom, GridNavi, Room
from mrt.control.envs.mazes import Maze, edges
from mrt.control.envs.navigation import PointEnv, SparseSemicircle
from mrt.control.evaluation.measures import Watch, has_means, watch
from mrt.control.evaluation.run import HELD_OUT
from mrt.control.oracles.references import players

TRIALS = 24  # rows of a picture of choices
Marks = list[tuple[str, float, float]]
State = Mapping[str, Tensor]


def scenes(tasks: EnvTasks, policies: Mapping[str, Agent], seed: int, greedy: bool) -> list[dict[str, Any]]:
    """One scene a policy, and one of the first baseline, on the first held-out tasks of `seed`."""
    env = tasks.env
    walks = isinstance(env, Room | Maze | BusGrid | Hallway | TMaze | PointEnv | MovingBandits)
    params = tasks.batch(HELD_OUT + seed, range(1 if walks else TRIALS))
    entrants: dict[str, Agent] = {n: Entrant(p, greedy, seed) for n, p in policies.items()}
    for name, make in list(players(env).items())[:1]:
        entrants[name] = make(params, seed)
    found = []
    for name, agent in entrants.items():
        _, watched = watch(env, agent, params, seed=seed, keep=True)
        scene = _path(env, watched) if walks else _choices(env, watched)
        found.append({"player": name, **scene})
    return found


def _path(env: TensorEnv, watched: Watch) -> dict[str, Any]:
    """The only row: where it was in each episode, the end included."""
    acting, episode = (torch.stack(part, 1)[0] for part in (watched.acting, watched.episodes))
    rewards = torch.stack(watched.rewards, 1)[0]
    believed = belief_cells(env, watched.beliefs[0].shape[-1]) if watched.beliefs else []
    episodes = []
    for k in range(env.spec.episodes):
        steps = torch.nonzero(acting & (episode == k))[:, 0].tolist()
        states = [watched.states[t] for t in [*steps, steps[-1] + 1]]
        path = [[round(float(x), 4) for x in place(env, state)] for state in states]
        marks = [[name, float(x), float(y)] for name, x, y in landmarks(env, states[0])]
        episodes.append({"path": path, "marks": marks, "return": float(rewards[steps].sum())})
        if believed:
            found = [watched.beliefs[t][0].tolist() for t in [*steps, steps[-1] + 1] if t < len(watched.beliefs)]
            episodes[-1]["beliefs"] = [[round(p, 3) for p in belief] for belief in found]
    more = {"believed": believed} if believed else {}
    return {"kind": "path", **ground(env), **more, "episodes": episodes}


def belief_cells(env: TensorEnv, count: int) -> list[list[int]]:
    """[x, y] of the cells that a belief over `count` of them is of: all, or where the goal may be; [] elsewhere."""
    if not isinstance(env, GridNavi | DarkRoom):
        return []
    goals = env.all_tasks()["goal"].unique().tolist()
    cells = {env.cells: list(range(env.cells)), len(goals): goals}.get(count, [])
    return [env.xy[cell].tolist() for cell in cells]


def _choices(env: TensorEnv, watched: Watch) -> dict[str, Any]:
    acting, rewards = torch.stack(watched.acting, 1), torch.stack(watched.rewards, 1).double()
    actions = [action.reshape(len(acting), -1)[:, 0] for action in watched.actions]
    if has_means(env):
        worth, shows = torch.stack(watched.worth, 1), "mean of the arm pulled, from the worst to the best one"
    elif isinstance(env, TwoStep):
        right = [(a == env.params["rich"]).double() for a in actions]
        first = torch.stack([s["stage"] == 0 for s in watched.states[: len(actions)]], 1)
        worth, acting, shows = torch.stack(right, 1), acting & first, "first choice aims at the state that pays more"
    elif isinstance(env, ObjectChoice):
        worth, shows = rewards, "the rewarded object was taken"
    else:
        low, high = rewards[acting].min(), rewards[acting].max()
        worth, shows = (rewards - low) / (high - low).clamp(min=1e-9), "reward, from the lowest to the highest"
    kept = [[round(float(w), 3) for w, a in zip(*row, strict=True) if a] for row in zip(worth, acting, strict=True)]
    return {"kind": "choices", "shows": shows, "rows": kept}


# ---- where one is


@singledispatch
def place(env: TensorEnv, state: State) -> Iterable[float]:
    """(x, y) of the first row in this state."""
    raise NotImplementedError(f"{type(env).__name__} has no places")


@place.register
def _(env: Room, state: State) -> Iterable[float]:
    return env.xy[state["cell"][0]].tolist()


@place.register
def _(env: Maze, state: State) -> Iterable[float]:
    return divmod(int(state["cell"][0]), env.size)


@place.register
def _(env: BusGrid, state: State) -> Iterable[float]:
    return divmod(int(state["cell"][0]), SIZE)


@place.register
def _(env: Hallway, state: State) -> Iterable[float]:
    return int(state["place"][0]) - env.half, -int(state["depth"][0])


@place.register
def _(env: TMaze, state: State) -> Iterable[float]:
    return int(state["x"][0]), int(state["y"][0]) - 1


@place.register(PointEnv)
@place.register(MovingBandits)
def _(env: TensorEnv, state: State) -> Iterable[float]:
    return state["position"][0].tolist()


# ---- what is there


@singledispatch
def landmarks(env: TensorEnv, state: State) -> Marks:
    """(name, x, y) of what the first task holds in an episode that begins in this state."""
    raise NotImplementedError(f"{type(env).__name__} has no landmarks")


@landmarks.register
def _(env: Room, state: State) -> Marks:
    names = [name for name in ("goal", "key", "door") if name in env.params]
    return [(name, *env.xy[env.params[name][0]].tolist()) for name in names]


@landmarks.register
def _(env: Maze, state: State) -> Marks:
    return [("goal", *divmod(int(env.params["goal"][0]), env.size))]


@landmarks.register
def _(env: BusGrid, state: State) -> Marks:
    corner = divmod(int(env.corners[state["corner"][0]]), SIZE)
    order = [int(env.rides[env.params["order"][0], x * SIZE + y]) for x, y in BUSES]
    stops = [STOPS.index(divmod(cell, SIZE)) for cell in order]
    buses: Marks = [(f"bus {i + 1}", *BUSES[i]) for i in range(4)]
    buses += [(f"stop {i + 1}", *STOPS[stop]) for i, stop in enumerate(stops)]
    return [*buses, ("goal", *corner), *([("map", *MAP)] if env.shows_map else [])]


@landmarks.register
def _(env: Hallway, state: State) -> Marks:
    sign: Marks = [("sign", 0, -env.dead_end)] if env.dead_end else []
    return [("goal", env.half * int(env.params["side"][0]), 0), *sign]


@landmarks.register
def _(env: TMaze, state: State) -> Marks:
    return [("goal", env.junction, int(env.params["side"][0])), ("cue", 0, 0)]


@landmarks.register
def _(env: PointEnv, state: State) -> Marks:
    return [("goal", *env.params["goal"][0].tolist())]


@landmarks.register
def _(env: MovingBandits, state: State) -> Marks:
    right = int(env.params["right"][0])
    return [("goal" if i == right else "other", *state["places"][0, i].tolist()) for i in (0, 1)]


# ---- the ground


@singledispatch
def ground(env: TensorEnv) -> dict[str, Any]:
    """cells and walls ([x0, y0, x1, y1] each) of the first task, or limits of a plane and the radius of a mark."""
    raise NotImplementedError(f"{type(env).__name__} has no ground")


def _square(size: int) -> list[list[int]]:
    return [[x, y] for x in range(size) for y in range(size)]


@ground.register
def _(env: Room) -> dict[str, Any]:
    return {"cells": _square(env.size)}


@ground.register
def _(env: BusGrid) -> dict[str, Any]:
    return {"cells": _square(SIZE)}


@ground.register
def _(env: Maze) -> dict[str, Any]:
    size, passages = env.size, env.params["open"][0].tolist()
    walls: list[list[float]] = [[-0.5, -0.5, size - 0.5, -0.5], [-0.5, -0.5, -0.5, size - 0.5]]
    walls += [[-0.5, size - 0.5, size - 0.5, size - 0.5], [size - 0.5, -0.5, size - 0.5, size - 0.5]]
    for cell, _, direction in edges(size):
        if not passages[cell] >> direction & 1:
            x, y = divmod(cell, size)
            up = direction == 0
            walls.append([x - 0.5, y + 0.5, x + 0.5, y + 0.5] if up else [x + 0.5, y - 0.5, x + 0.5, y + 0.5])
    return {"cells": _square(size), "walls": walls}


@ground.register
def _(env: Hallway) -> dict[str, Any]:
    along = [[x, 0] for x in range(-env.half, env.half + 1)]
    return {"cells": along + [[0, -depth] for depth in range(1, env.dead_end + 1)]}


@ground.register
def _(env: TMaze) -> dict[str, Any]:
    return {"cells": [*([x, 0] for x in range(env.junction + 1)), [env.junction, 1], [env.junction, -1]]}


@ground.register
def _(env: PointEnv) -> dict[str, Any]:
    reach = max(1.2, float(env.params["goal"].abs().max()) * 1.2)
    radius = env.radius if isinstance(env, SparseSemicircle) else 0.0
    return {"limits": [-reach, reach, -reach, reach], "radius": radius}


@ground.register
def _(env: MovingBandits) -> dict[str, Any]:
    return {"limits": [0.0, env.SIDE, 0.0, env.SIDE], "radius": env.RADIUS}
