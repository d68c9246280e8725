"""Tasks for episodic memory: a maze that is walked again and again, and a gamble that memory of the best falls for."""

from __future__ import annotations

import torch
from torch import Tensor

from mrt.control.envs.base import Spec, TensorEnv
from mrt.control.envs.mazes import Maze


class EpisodicMaze(Maze):
    """A random maze, seen as the place where one stands. Each step costs 1 / steps and the goal, which ends the
    episode, pays 1: an episode that finds it in d steps returns 1 - d / steps, and one that does not
    -1. Nothing is random.

    Observation: x and y from -1 to 1, then `noise` numbers drawn anew in every step, which say nothing.

    Args:
        size: cells a side. openings: chance that a wall which the tree leaves standing is opened, too.
    """

    name = "episodic-maze"

    def __init__(
        self,
        size: int = 7,
        *,
        openings: float = 0.2,
        steps: int = 100,
        episodes: int = 20,
        noise: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(size, openings=openings, steps=steps, episodes=episodes, device=device)
        self.spec = Spec(2 + noise, steps, episodes, actions=4)
        self.noise, self.step_draws, self.start_draws = noise, noise, noise

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        return {**super().begin_episode(u), "noise": 2 * u[:, : self.noise] - 1}

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        state, _, there = super().move(actions, u)
        return {**state, "noise": 2 * u - 1}, there.float() - 1 / self.spec.episode_steps, there

    def observe(self) -> Tensor:
        cell = self.state["cell"]
        place = torch.stack([cell // self.size, cell % self.size], 1).float()
        return torch.cat([2 * place / (self.size - 1) - 1, self.state["noise"]], 1)


class Gamble(TensorEnv):
    """Two actions, one step an episode: one is free and safe and pays 0, the other +1 with chance `win`, else -1. Which
    is which belongs to the task; the observation is 0.
    """

    name = "gamble"
    task_draws = 1
    step_draws = 1

    def __init__(self, win: float = 0.4, episodes: int = 100, device: str | torch.device = "cpu") -> None:
        if not 0 <= win <= 1:
            raise ValueError(f"win={win} must be from 0 to 1")
        super().__init__(Spec(1, 1, episodes, actions=2), device)
        self.win = win

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        return {"risky": (u[:, 0] >= 0.5).long()}

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        return {"place": torch.zeros_like(self.clock)}

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        paid = torch.where(u[:, 0] < self.win, 1.0, -1.0)
        reward = torch.where(actions == self.params["risky"], paid, 0.0)
        return {"place": self.state["place"]}, reward, torch.ones_like(self.waiting)

    def observe(self) -> Tensor:
        return self.state["place"][:, None].float()
