"""Corridors that test memory: the T-Maze, passive and active, and the hallway with its closed forms."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mrt.control.envs.base import Spec
from mrt.control.envs.grids import FiniteEnv, pick
from mrt.errors import ConfigError


class TMaze(FiniteEnv):
    """The T-Maze of Ni et al. 2023 (arXiv 2307.03864), which AMAGO plays: a cue, a corridor, a junction.

    passive: the agent starts at the cue (the oracle, x = 0), walks `corridor` cells to the junction and has one step
    to choose the arm. active: it starts one cell to the right of the oracle, out of sight of the cue, and has two
    steps more, so that going there costs nothing. The last step of the episode pays 1 in the right arm; before it a
    step that leaves the agent behind schedule (x < t - oracle distance, t counted from 1) costs `penalty`. So the
    optimum is 1 and an agent without memory gets at most 1/2.

    Actions: right, up, left, down. Observations (2,): at the junction (1, y), y = +-1 in an arm; elsewhere (0, cue),
    cue +-1 at the oracle when it is visited for the first time in an episode, else 0. The side is the task: it stays
    the same where a trial has several episodes. The policy sees the cue, never the side itself.
    """

    task_draws = 1
    task_choices = (2,)
    timed = True

    def __init__(
        self,
        kind: Literal["passive", "active"] = "passive",
        corridor: int = 10,
        penalty: float | None = None,
        episodes: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        self.oracle = int(kind == "active")
        steps = corridor + 2 * self.oracle + 1
        super().__init__(Spec(observation=2, episode_steps=steps, episodes=episodes, actions=4), device)
        self.name = f"t-maze-{kind}"
        self.junction = corridor + self.oracle
        self.penalty = -1 / (steps - 1) if penalty is None else penalty  # the default is that of Ni et al.
        self.ranges = {"x": self.junction + 1, "y": 3, "seen": 2}  # y: 0 below, 1 in the corridor, 2 above

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        return {"side": 2 * pick(u[:, 0], 2) - 1}

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        x = torch.full((len(u),), self.oracle, device=self.device)
        # "seen" turns 1 one step after the cue was shown, so that `observe` shows it exactly once.
        return {"x": x, "y": torch.ones_like(x), "seen": torch.zeros_like(x)}

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        x, y = self.state["x"], self.state["y"]
        in_corridor = y == 1
        dx = torch.where(in_corridor, (actions == 0).long() - (actions == 2).long(), 0)
        dy = torch.where(x == self.junction, (actions == 1).long() - (actions == 3).long(), 0)
        state = {
            "x": (x + dx).clamp(0, self.junction),
            "y": (y + dy).clamp(0, 2),
            "seen": self.state["seen"] | (x == 0),
        }
        t = self.clock + 1
        last = t >= self.spec.episode_steps
        behind = state["x"] < t - self.oracle
        right_arm = state["y"] - 1 == self.params["side"]
        # The end is part of the task, not a limit on it: nothing is to be earned afterwards.
        return state, torch.where(last, right_arm.float(), behind * self.penalty), last

    def observe(self) -> Tensor:
        x = self.state["x"]
        at_junction = x == self.junction
        cue = torch.where((x == 0) & (self.state["seen"] == 0), self.params["side"], 0)
        return torch.stack([at_junction, torch.where(at_junction, self.state["y"] - 1, cue)], dim=1).float()


class Hallway(FiniteEnv):
    """A corridor from -half to half, the start in its middle, the goal at one of its ends, each with chance 1/2.

    Reaching the goal pays 1 and ends the episode; every step costs `cost`. With `dead_end` = m > 0 a side passage of m
    cells leads down from the start, and at its end a sign says which end of the hallway is the right one: worth the way
    there and back, 2m steps, if and only if 2m < half. Posterior sampling never goes there: no task makes it rewarding.

    Actions: left, right, down, up. Observations (3,): place along the corridor / half, depth / dead_end, sign (+-1 at
    the end of the dead end, else 0). An episode lasts `steps`, at least 3 half + 2 dead_end, so that no order of
    looking is cut short (the default is just that). Closed forms: `mrt.control.oracles.hallway`.
    """

    task_draws = 1
    task_choices = (2,)
    name = "hallway"

    def __init__(
        self,
        half: int = 5,
        dead_end: int = 0,
        cost: float = 0.02,
        *,
        steps: int | None = None,
        episodes: int = 2,
        device: str | torch.device = "cpu",
    ) -> None:
        steps = 3 * half + 2 * dead_end if steps is None else steps
        if steps < 3 * half + 2 * dead_end:
            raise ConfigError(f"steps={steps} is too few to look everywhere: half={half}, dead_end={dead_end}")
        super().__init__(Spec(observation=3, episode_steps=steps, episodes=episodes, actions=4), device)
        self.half, self.dead_end, self.cost = half, dead_end, cost
        self.ranges = {"place": 2 * half + 1, "depth": dead_end + 1}

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        return {"side": 2 * pick(u[:, 0], 2) - 1}

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        place = torch.full((len(u),), self.half, device=self.device)
        return {"place": place, "depth": torch.zeros_like(place)}

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        place, depth = self.state["place"], self.state["depth"]
        along = torch.where(depth == 0, (actions == 1).long() - (actions == 0).long(), 0)
        down = torch.where(place == self.half, (actions == 2).long() - (actions == 3).long(), 0)
        place, depth = (place + along).clamp(0, 2 * self.half), (depth + down).clamp(0, self.dead_end)
        found = place - self.half == self.half * self.params["side"]
        return {"place": place, "depth": depth}, found.float() - self.cost, found

    def observe(self) -> Tensor:
        place, depth = self.state["place"] - self.half, self.state["depth"]
        sign = torch.where((depth == self.dead_end) & (depth > 0), self.params["side"], 0)
        return torch.stack([place / self.half, depth / max(self.dead_end, 1), sign.float()], dim=1)
