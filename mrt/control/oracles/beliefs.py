"""Exact beliefs: the posterior over tasks, and agents that act on it. A learned belief is measured against these.

A meta-RL problem is a POMDP whose hidden state is the task (Duff 2002; Zintgraf et al. 2020, 1910.08348, section 2). A
belief b_t (B, N) says of each of N listed tasks how likely it is after what was seen, and is recorded beside every step
as the extra `belief`:

    b_t(M) is proportional to b_(t-1)(M) p(o_t, r_t | o_(t-1), a_(t-1), M)          b_0 uniform over `listed_tasks`

What the best agent does on a belief is known for rooms that are searched and for the two-hypothesis bandit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mrt.control.agent import ScriptedAgent, Seen, fresh
from mrt.control.envs.bandits import DependentBandit
from mrt.control.envs.base import TensorEnv
from mrt.control.envs.buses import ORDERS, STOPS, BusGrid
from mrt.control.envs.grids import DarkRoom, FiniteEnv, GridNavi, midpoints
from mrt.control.envs.told import task_vectors
from mrt.control.oracles.bandit_policies import DependentBayes
from mrt.control.oracles.grids import sweep
from mrt.control.oracles.optimal import towards
from mrt.errors import ConfigError

State = dict[str, Any]
BELIEF = "belief"  # the extra
NEVER = 1 << 30  # farther away than any cell


@singledispatch
def listed_tasks(env: TensorEnv) -> dict[str, Tensor]:
    """Every task once, {name: (N, ...)}, all equally likely: the order of a belief over them.

    Raises:
        ConfigError: for an environment whose tasks cannot be listed.
    """
    raise ConfigError(f"the tasks of {env.name} cannot be listed, so there is no belief over them")


@listed_tasks.register
def _finite(env: FiniteEnv) -> dict[str, Tensor]:
    return env.all_tasks()


@listed_tasks.register
def _dependent(env: DependentBandit) -> dict[str, Tensor]:
    if env.kind == "uniform":
        raise ConfigError("kind='uniform' has a continuum of tasks; easy, medium and hard have two each")
    return {name: value.to(env.device) for name, value in env.task_params(midpoints((2,))).items()}


@singledispatch
def task_features(env: TensorEnv, params: Mapping[str, Tensor]) -> Tensor:
    """(B, D) float32: what tells the tasks of `params` {name: (B, ...)} from others, for learners that are told of it.

    A one-hot vector where tasks can be listed, else their parameters.
    """
    try:
        count = len(next(iter(listed_tasks(env).values())))
    except ConfigError:
        return task_vectors(params)
    return one_hot(task_numbers(env, params), count).float()


@task_features.register
def _buses(env: BusGrid, params: Mapping[str, Tensor]) -> Tensor:
    """Where each bus goes, one-hot, scaled to length 1."""
    stops = torch.tensor(ORDERS, device=params["order"].device)[params["order"]]
    return one_hot(stops, len(STOPS)).flatten(1) / len(STOPS) ** 0.5


def task_numbers(env: TensorEnv, params: Mapping[str, Tensor]) -> Tensor:
    """(B,) int64: which of `listed_tasks` the tasks of `params` {name: (B, ...)} are.

    Raises:
        ConfigError: where tasks cannot be listed, or one is not among them.
    """
    same = (task_vectors(params)[:, None] == task_vectors(listed_tasks(env))).all(2)
    if not bool(same.any(1).all()):
        raise ConfigError(f"a task of {env.name} is none of those that are listed")
    return same.long().argmax(1)


class RoomSearch(ScriptedAgent):
    """Exact in `GridNavi` and `DarkRoom`, whose goal pays whoever enters it: every cell that was entered for nothing is
    ruled out, the others stay equally likely, and the cell that paid is the goal.

    In GridNavi it follows the path of `sweep` in the first episode: then it is Bayes-optimal. Elsewhere, and for goals
    that the path left over, it walks to the nearest cell that is left. Once the goal is known it goes there and stays.
    """

    def __init__(self, env: GridNavi | DarkRoom) -> None:
        self.room = env.to("cpu")
        self.cells = self.room.all_tasks()["goal"].unique()  # with a start of the task's own, goals come in several
        path = sweep(self.room, one_path_left=True) if isinstance(self.room, GridNavi) else None
        self.path = torch.tensor(path) if path is not None else None

    def start(self, rows: int) -> State:
        belief = torch.full((rows, len(self.cells)), 1 / len(self.cells))
        zeros = torch.zeros(rows, dtype=torch.long)
        return {BELIEF: belief, "time": zeros, "episode": zeros}

    def learn(self, seen: Seen, state: State) -> State:
        begun = fresh(seen)
        entered = self.cells == self.cell_of(seen["observation"])[:, None]
        left = torch.where((seen["reward"] > 0)[:, None], entered.float(), state[BELIEF] * ~entered)
        # What pays once is not ruled out by paying nothing later; nothing is entered at the start of an episode.
        kept = begun | (state[BELIEF].amax(1) == 1)
        left = torch.where(kept[:, None], state[BELIEF], left)
        return {
            **state,
            BELIEF: left / left.sum(1, keepdim=True),
            "time": torch.where(begun, 0, state["time"] + 1),
            "episode": state["episode"] + begun,
        }

    def choose(self, observation: Tensor, state: State) -> Tensor:
        here = self.cell_of(observation)
        away = (self.room.xy[here][:, None] - self.room.xy[self.cells]).abs().sum(2)
        away = torch.where(state[BELIEF] > 0, away, NEVER)
        known = state[BELIEF].amax(1) == 1
        # The cell of the start may hold the goal: staying there enters it.
        target = self.cells[torch.where(known[:, None] & (state[BELIEF] == 0), NEVER, away).argmin(1)]
        if self.path is not None:
            searching = ~known & (state["episode"] == 0)
            target = torch.where(searching, self.path[state["time"].clamp(max=len(self.path) - 1)], target)
        return towards(self.room, target, here=here)

    def extras(self, state: State) -> Mapping[str, Tensor]:
        return {BELIEF: state[BELIEF]}

    def cell_of(self, observation: Tensor) -> Tensor:
        """(B,) the cell that an observation (B, D) shows."""
        return (observation[:, None] - self.room.views).abs().sum(2).argmin(1)


class TwoHypotheses(DependentBayes):
    """Exact in a `DependentBandit` of two values p and 1 - p: each pull speaks for one of the two tasks, and

        log b(first arm better) / b(second arm better) = (s - f) log(p / (1 - p))

    with s pulls for the first and f for the second.

    Raises:
        ConfigError: for the uniform bandit.
    """

    def __init__(self, env: DependentBandit) -> None:
        super().__init__()
        listed_tasks(env)
        better = env.BETTER[env.kind]
        self.weight = math.log(better / (1 - better))

    def extras(self, state: State) -> Mapping[str, Tensor]:
        scores = self.scores(state)
        return {BELIEF: (self.weight * scores).softmax(1)}
