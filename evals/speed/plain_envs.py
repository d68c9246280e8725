"""Three environments as one would write them for Gymnasium: a task each, plain Python. The other side of
`evals.speed.control`; a test steps them beside the tensor environments on the same numbers.

A trial is Gymnasium's episode here: episodes within it begin again without a step of their own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))


class PlainBandit(gymnasium.Env):
    """Five Bernoulli arms, ten pulls; a new task at every reset."""

    observation_space = gymnasium.spaces.Box(0, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(5)

    def __init__(self) -> None:
        self.seen = np.ones(1, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draws the arms, or takes those of `options["task"]`."""
        self.random = random.Random(seed)
        self.arms = (options or {}).get("task") or [self.random.random() for _ in range(5)]
        self.time = 0
        return self.seen, {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One pull."""
        self.time += 1
        reward = 1.0 if self.random.random() < self.arms[action] else 0.0
        return self.seen, reward, False, self.time >= 10, {}


class PlainRoom(gymnasium.Env):
    """A room of cells with a hidden goal: four episodes a trial."""

    action_space = gymnasium.spaces.Discrete(5)
    size, steps, start = 5, 15, (0, 0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Draws the goal, or takes that of `options["task"]`, a cell (x, y)."""
        self.goal = (options or {}).get("task") or random.Random(seed).choice(self.goals())
        self.x, self.y = self.start
        self.time = 0
        return self.observe(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One move; a wall stops it."""
        if self.time and self.time % self.steps == 0:
            self.x, self.y = self.start
        dx, dy = MOVES[action]
        self.x = min(max(self.x + dx, 0), self.size - 1)
        self.y = min(max(self.y + dy, 0), self.size - 1)
        self.time += 1
        reward = self.pay((self.x, self.y) == self.goal)
        return self.observe(), reward, False, self.time >= 4 * self.steps, {}

    def goals(self) -> list[tuple[int, int]]:
        """Where the goal may be."""
        raise NotImplementedError

    def pay(self, there: bool) -> float:
        """The reward of a step."""
        raise NotImplementedError

    def observe(self) -> Any:
        """What is seen."""
        raise NotImplementedError


class PlainGridNavi(PlainRoom):
    """VariBAD's room."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def goals(self) -> list[tuple[int, int]]:
        """Anywhere but in the corner of the start."""
        return [(x, y) for x in range(5) for y in range(5) if max(x, y) > 1]

    def pay(self, there: bool) -> float:
        """1 on the goal, -0.1 elsewhere."""
        return 1.0 if there else -0.1

    def observe(self) -> Any:
        """(x, y), scaled."""
        return np.array((self.x / 2 - 1, self.y / 2 - 1), np.float32)


class PlainDarkRoom(PlainRoom):
    """Algorithm Distillation's room, 9x9, 20 steps."""

    observation_space = gymnasium.spaces.Box(0, 1, (81,), np.float32)
    size, steps, start = 9, 20, (4, 4)

    def goals(self) -> list[tuple[int, int]]:
        """Anywhere."""
        return [(x, y) for x in range(9) for y in range(9)]

    def pay(self, there: bool) -> float:
        """1 on the goal."""
        return 1.0 if there else 0.0

    def observe(self) -> Any:
        """The cell, one-hot."""
        seen = np.zeros(81, np.float32)
        seen[self.x * 9 + self.y] = 1.0
        return seen


PLAIN: dict[str, Callable[[], gymnasium.Env]] = {
    "bernoulli-bandit": PlainBandit,
    "grid-navi": PlainGridNavi,
    "dark-room": PlainDarkRoom,
}
