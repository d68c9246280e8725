"""DREAM's bus grid and map grid (Liu 2021, arXiv 2008.02790; as released): explore one episode for free, then ride.

A 9x9 grid, cell number x * 9 + y. Around the centre stand four buses, each of which goes to one of four stops beside
the corners and back; which one goes where is the task, one of 24.
"""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor

from mrt.control.envs.base import Spec
from mrt.control.envs.grids import FiniteEnv, pick

SIZE = 9
CENTRE = (4, 4)
BUSES = ((4, 5), (5, 4), (3, 4), (4, 3))
STOPS = ((0, 1), (0, 7), (8, 1), (8, 7))
GOALS = ((0, 0), (8, 8), (0, 8), (8, 0))
MAP = (7, 3)
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # left, up, right, down
STAY, RIDE, END = 4, 5, 6
ORDERS = tuple(permutations(range(4)))  # bus i goes to STOPS[order[i]]


class BusGrid(FiniteEnv):
    """Reach a corner that is given, by a bus that is not. The first episode is free exploration.

    Every episode after the exploration is given one of four corners, drawn at its start: -0.1 a step, +1 for the step
    that reaches it, which ends the episode. While exploring no corner is shown and nothing is paid. Informed: one step,
    one ride, one step, 0.8. On foot: 0.3, and that is the best that can be had without exploring, too.

    Actions: left, up, right, down, stay, ride (where there is no bus: stay), end the episode, at the price of all the
    steps that are left. The released code has two more, pick up and drop, which do nothing here.

    Observations, one-hot where DREAM has numbers that it embeds: x (9), y (9), is there a bus (1), the corner (4; zeros
    while exploring); and in `MapGrid` the number of the task (24) where the map stands, zeros elsewhere.
    """

    name = "dream-bus"
    task_choices = (len(ORDERS),)
    start_draws = 1
    start_choices = (len(GOALS),)
    timed = True  # the price of ending early
    shows_map = False

    def __init__(
        self, steps: int = 20, episodes: int = 2, free_episodes: int = 1, device: str | torch.device = "cpu"
    ) -> None:
        width = 2 * SIZE + 1 + len(GOALS) + len(ORDERS) * self.shows_map
        super().__init__(Spec(width, steps, episodes, actions=7, free_episodes=free_episodes), device)
        cells = SIZE * SIZE
        self.ranges = {"cell": cells, "corner": len(GOALS)}
        cell = torch.arange(cells)
        x, y = cell // SIZE, cell % SIZE
        walked = [(x + dx).clamp(0, SIZE - 1) * SIZE + (y + dy).clamp(0, SIZE - 1) for dx, dy in MOVES]
        self.ends = torch.stack([*walked, cell, cell, cell], dim=1).to(self.device)
        rides = cell.repeat(len(ORDERS), 1)
        for task, order in enumerate(ORDERS):
            for bus, stop in zip(BUSES, order, strict=True):
                a, b = bus[0] * SIZE + bus[1], STOPS[stop][0] * SIZE + STOPS[stop][1]
                rides[task, a], rides[task, b] = b, a
        self.rides = rides.to(self.device)
        ways = torch.eye(SIZE)
        self.views = torch.cat([ways[x], ways[y], (rides[0] != cell).float()[:, None]], dim=1).to(self.device)
        self.corners = torch.tensor([gx * SIZE + gy for gx, gy in GOALS], device=self.device)
        self.told = torch.eye(len(GOALS), device=self.device)
        self.plans = torch.eye(len(ORDERS), device=self.device)

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        return {"order": pick(u[:, 0], len(ORDERS))}

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        corner = pick(u[:, 0], len(GOALS))
        return {"cell": torch.full_like(corner, CENTRE[0] * SIZE + CENTRE[1]), "corner": corner}

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        before, corner = self.state["cell"], self.state["corner"]
        cell = torch.where(actions == RIDE, self.rides[self.params["order"], before], self.ends[before, actions])
        paid = self.episode >= self.spec.free_episodes
        there = paid & (cell == self.corners[corner])
        ended = actions == END
        left = self.spec.episode_steps - self.clock - 1
        cost = torch.where(ended, -0.1 - 0.1 * left, -0.1)
        reward = torch.where(there, 1.0, cost) * paid
        return {"cell": cell, "corner": corner}, reward, there | ended

    def observe(self) -> Tensor:
        cell = self.state["cell"]
        paid = (self.episode >= self.spec.free_episodes)[:, None]
        parts = [self.views[cell], self.told[self.state["corner"]] * paid]
        if self.shows_map:
            at_map = (cell == MAP[0] * SIZE + MAP[1])[:, None]
            parts.append(self.plans[self.params["order"]] * at_map)
        return torch.cat(parts, dim=1)


class MapGrid(BusGrid):
    """The bus grid with a map, four steps from the start, that tells the task to an agent that stands on it."""

    name = "dream-map"
    shows_map = True
