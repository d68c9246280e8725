"""Cart-pole on tensors, with poles of several lengths and masses: what domain randomisation is shown on.

The dynamics are those of Gymnasium's CartPole-v1 (Barto, Sutton and Anderson 1983; Euler steps of 0.02 s), which a test
steps beside it. Rewards are 1 a step, an episode ends when the pole is 12 degrees off or the cart 2.4 away.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mrt.control.envs.base import Spec, TensorEnv
from mrt.errors import ConfigError

GRAVITY, CART, FORCE, TAU = 9.8, 1.0, 10.0, 0.02
FAR, TILTED = 2.4, 12 * 2 * math.pi / 360


class CartPole(TensorEnv):
    """A task is a pole: half its length and its mass, uniform in their ranges. Actions: 0 pushes left, 1 right.

    Args:
        length: lowest and highest half length; 0.5 in Gymnasium.
        mass: lowest and highest mass of the pole; 0.1 in Gymnasium.
        steps: at most, in an episode.

    Raises:
        ConfigError: for ranges that are empty or not above 0.
    """

    name = "cart-pole"
    task_draws = 2
    start_draws = 4

    def __init__(
        self,
        length: tuple[float, float] = (0.25, 1.0),
        mass: tuple[float, float] = (0.1, 0.1),
        steps: int = 500,
        episodes: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(Spec(observation=4, episode_steps=steps, episodes=episodes, actions=2), device)
        self.ranges = {}
        for name, pair in (("length", length), ("mass", mass)):
            low, high = (float(value) for value in pair)
            if not 0 < low <= high:
                raise ConfigError(f"{name}={list(pair)} must be above 0, the lowest first")
            self.ranges[name] = (low, high)

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        found = {}
        for column, (name, (low, high)) in enumerate(self.ranges.items()):
            found[name] = low + (high - low) * u[:, column]
        return found

    def task_ranges(self) -> dict[str, tuple[float, float]]:
        return {name: pair for name, pair in self.ranges.items() if pair[0] < pair[1]}

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        return {"moving": 0.1 * u - 0.05}  # position, velocity, angle, angular velocity

    def observe(self) -> Tensor:
        return self.state["moving"]

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        x, speed, angle, turning = self.state["moving"].unbind(1)
        length, mass = self.params["length"], self.params["mass"]
        total, moment = CART + mass, mass * length
        force = torch.where(actions == 1, FORCE, -FORCE)
        sine, cosine = angle.sin(), angle.cos()
        push = (force + moment * turning * turning * sine) / total
        turn = (GRAVITY * sine - cosine * push) / (length * (4 / 3 - mass * cosine * cosine / total))
        pull = push - moment * turn * cosine / total
        moving = torch.stack([x + TAU * speed, speed + TAU * pull, angle + TAU * turning, turning + TAU * turn], 1)
        over = (moving[:, 0].abs() > FAR) | (moving[:, 2].abs() > TILTED)
        return {"moving": moving}, torch.ones_like(x), over
