"""What whoever knows the task does next: labels of a decision-pretrained transformer."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from mrt.control.agent import Agent, Choice, Seen
from mrt.control.envs.bandits import Bandit, MovingBandits
from mrt.control.envs.base import TensorEnv
from mrt.control.envs.grids import DarkRoom, GridNavi, Room
from mrt.errors import ConfigError


@singledispatch
def best_actions(env: TensorEnv) -> Tensor:
    """(B,) int64: an action that is best now for whoever knows the task of each row, at the environment's state.

    Raises:
        ConfigError: for an environment of which this is not known.
    """
    raise ConfigError(f"the best action of a known task is not known for {env.name}; it is for bandits and dark rooms")


@best_actions.register
def _bandit(env: Bandit) -> Tensor:
    return env.arm_means().argmax(1)


@best_actions.register
def _moving(env: MovingBandits) -> Tensor:
    """Towards the right place along the axis that is farther away; near enough, it stays."""
    goal = env.state["places"][torch.arange(len(env.clock), device=env.device), env.params["right"]]
    x, y = (goal - env.state["position"]).unbind(1)
    across, along = torch.where(x > 0, 1, 2), torch.where(y > 0, 3, 4)
    return torch.where((x**2 + y**2) < env.RADIUS**2, 0, torch.where(x.abs() >= y.abs(), across, along))


@best_actions.register(DarkRoom)
@best_actions.register(GridNavi)
def _room(env: Room) -> Tensor:
    """Towards the goal, first along x; there, it stays. Once the goal has paid and pays no more, it stays as well."""
    return towards(env, env.params["goal"])


def towards(env: Room, cells: Tensor, along_x: Tensor | None = None, here: Tensor | None = None) -> Tensor:
    """(B,) the action that leads to `cells` (B,) on a shortest way; there, it stays.

    `along_x` (B,) bool: who goes along x first where both ways are open; all of them when left out. `here` (B,): the
    cells to go from; those of the environment when left out.
    """
    x, y = (env.xy[cells] - env.xy[env.state["cell"] if here is None else here]).unbind(1)
    across, along = torch.where(x > 0, 2, 4), torch.where(y > 0, 1, 3)
    sideways = x != 0 if along_x is None else (x != 0) & (along_x | (y == 0))
    return torch.where(sideways, across, torch.where(y != 0, along, 0))


class Labelled(Agent):
    """Another agent, and beside each of its steps what whoever knows the task would do there: extra `best` (B,).

    The label never reaches the agent, whose memory and draws are as they would be without.
    """

    def __init__(self, agent: Agent, env: TensorEnv) -> None:
        self.agent, self.env, self.cadence, self.shape = agent, env, agent.cadence, agent.shape

    def init_state(self, rows: int) -> Any:
        return self.agent.init_state(rows)

    def act(self, seen: Seen, state: Any, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        best = best_actions(self.env)
        choice = self.agent.act(seen, state, greedy, generator)
        return choice._replace(extras={**choice.extras, "best": best})

    def adapt(self, seen: Seen, state: Any, ended: Tensor) -> Any:
        return self.agent.adapt(seen, state, ended)

    def fork(self, state: Any, rows: Tensor) -> Any:
        return self.agent.fork(state, rows)
