"""Small random mazes, after the visual mazes of RL2 (Duan 2016, arXiv 1611.02779) and SNAIL (Mishra 2018, 1707.03141).

size x size cells, cell number x * size + y. A maze is a spanning tree, the lightest one for the random weights of its
walls, and maybe some more openings. It is kept as one number a cell: bit d is set where direction d is open.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mrt.control.envs.base import Spec
from mrt.control.envs.grids import FiniteEnv, pick
from mrt.control.envs.maze_views import Rays, cast, first_person, top_down, walls
from mrt.errors import ConfigError

View = Literal["symbolic", "top_down", "first_person"]
DIRECTIONS = ((0, 1), (1, 0), (0, -1), (-1, 0))  # up, right, down, left: turning right adds one


def edges(size: int) -> list[tuple[int, int, int]]:
    """Every wall that could be opened: (cell, its neighbour above or to the right, direction from the first)."""
    cells = [(x, y, d) for x in range(size) for y in range(size) for d in (0, 1)]
    inside = [(x, y, d) for x, y, d in cells if x + DIRECTIONS[d][0] < size and y + DIRECTIONS[d][1] < size]
    return [(x * size + y, (x + DIRECTIONS[d][0]) * size + y + DIRECTIONS[d][1], d) for x, y, d in inside]


def spanning_trees(weights: Tensor, size: int) -> Tensor:
    """(B, E) bool: the lightest spanning tree for the weights (B, E) of `edges(size)`, by Prim's algorithm."""
    ends = torch.tensor(edges(size), device=weights.device)
    inside = torch.zeros(len(weights), size * size, dtype=torch.bool, device=weights.device)
    inside[:, 0] = True
    chosen = torch.zeros_like(weights, dtype=torch.bool)
    for _ in range(size * size - 1):
        leaving = inside[:, ends[:, 0]] ^ inside[:, ends[:, 1]]
        lightest = torch.where(leaving, weights, torch.inf).argmin(dim=1, keepdim=True)
        chosen = chosen.scatter(1, lightest, True)
        inside = inside.scatter(1, ends[lightest[:, 0], :2], True)
    return chosen


class Maze(FiniteEnv):
    """Find the goal of an unknown maze; then go there straight, in the episodes that follow.

    Rewards are RL2's: +1 at the goal, which ends the episode, -0.04 for each step, -0.001 more for running into a
    wall. Maze, start and goal belong to the task. Actions: up, right, down, left; with the view "first_person": turn
    left, turn right, forward, the heading at the start of an episode is up.

    Args:
        size: cells a side.
        view: what is seen, never more than the surroundings. "symbolic" (8,): for each direction, is it open, and is
            the goal the next cell there. "top_down" (2 * 5 * 5,): two images, walls and goal, of the 5x5 tiles around
            the agent, where a cell and a wall are a tile each; row x, column y. "first_person" (3 * pixels * pixels,):
            red, green, blue, in rows from the top, of what lies ahead; nearer walls are brighter, the goal is green.
        openings: chance that a wall which the tree leaves standing is opened, too.
        pixels: side of the first-person image, even.
    """

    name = "maze"

    def __init__(
        self,
        size: int = 4,
        view: View = "symbolic",
        *,
        openings: float = 0.0,
        steps: int = 100,
        episodes: int = 2,
        pixels: int = 12,
        device: str | torch.device = "cpu",
    ) -> None:
        if pixels % 2:
            raise ConfigError(f"pixels={pixels}: must be even, so that no ray runs through a corner")
        self.size, self.view, self.openings = size, view, openings
        self.turns = view == "first_person"
        width = {"symbolic": 8, "top_down": 50, "first_person": 3 * pixels * pixels}[view]
        super().__init__(Spec(width, steps, episodes, actions=3 if self.turns else 4), device)
        self.walls = edges(size)
        self.task_draws = 2 + 2 * len(self.walls)
        self.ranges = {"cell": size * size, **({"heading": 4} if self.turns else {})}
        self.rays = Rays(*(part.to(self.device) for part in cast(size, pixels)))
        self.offsets = torch.tensor([dx * size + dy for dx, dy in DIRECTIONS], device=self.device)

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        cells, count = self.size * self.size, len(self.walls)
        start, other = pick(u[:, 0], cells), pick(u[:, 1], cells - 1)
        goal = other + (other >= start)  # any cell but the start
        opened = spanning_trees(u[:, 2 : 2 + count], self.size) | (u[:, 2 + count :] < self.openings)
        masks = torch.zeros(count, cells, dtype=torch.long)
        for i, (a, b, d) in enumerate(self.walls):
            masks[i, a], masks[i, b] = 1 << d, 1 << (d + 2)
        # Every bit comes from one wall alone, so that a sum is as good as an "or".
        passages = (opened.double() @ masks.to(u.device).double()).long()
        return {"open": passages, "start": start, "goal": goal}

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        cell = self.params["start"].clone()
        return {"cell": cell, "heading": torch.zeros_like(cell)} if self.turns else {"cell": cell}

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        cell = self.state["cell"]
        if self.turns:
            turned = (self.state["heading"] + (actions == 1).long() - (actions == 0).long()) % 4
            direction, walks = turned, actions == 2
        else:
            direction, walks = actions, torch.ones_like(actions, dtype=torch.bool)
        passages = self.params["open"].gather(1, cell[:, None])[:, 0]
        free = (passages >> direction) & 1 == 1
        cell = torch.where(walks & free, cell + self.offsets[direction], cell)
        there = cell == self.params["goal"]
        reward = there.float() - 0.04 - 0.001 * (walks & ~free)
        return {"cell": cell, **({"heading": turned} if self.turns else {})}, reward, there

    def observe(self) -> Tensor:
        cell, goal, passages = self.state["cell"], self.params["goal"], self.params["open"]
        if self.view == "top_down":
            return top_down(walls(passages, self.size), cell, goal, self.size)
        if self.view == "first_person":
            solid = walls(passages, self.size)
            return first_person(solid, cell, goal, self.state["heading"], size=self.size, rays=self.rays)
        here = passages.gather(1, cell[:, None])
        free = (here >> torch.arange(4, device=self.device)) & 1
        near = free * (cell[:, None] + self.offsets == goal[:, None])
        return torch.cat([free, near], dim=1).float()
