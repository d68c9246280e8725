"""A scalar system whose control changes its sign: the smallest world in which a model has to adapt."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mrt.control.envs.base import Spec, TensorEnv


class SignFlip(TensorEnv):
    """x' = x + b u with b = 1 or -1, which flips every `every` steps; u in [-1, 1] should keep x near a target g that
    walks: g' = g + sigma w. The dynamics are free of noise, so that one step with u != 0 tells b.

        reward = - (x' - g)^2 - rho u^2

    Observation: x and g. A planner may know `planned_reward`, that only the first `predicted` numbers of the
    observation are moved by actions, and that this depends on no place (`sees` is empty).

    With b known this is a linear-quadratic problem in e = x - g, whose optimal u is - b k e and whose cost a step is
    P sigma^2, by the Riccati equation P^2 + P = rho and k = (1 + P) / (1 + P + rho), as long as u stays within [-1, 1].
    Without a model of b the best is u = 0, and the cost grows with the square of the walk.
    """

    name = "sign-flip"
    task_draws = 1
    start_draws = 1
    step_draws = 1
    predicted = 1
    sees: tuple[int, ...] = ()

    def __init__(
        self,
        steps: int = 100,
        every: int = 50,
        *,
        sigma: float = 0.6,
        rho: float = 1.0,
        spread: float = 0.0,
        device: str | torch.device = "cpu",
    ) -> None:
        if every < 1 or sigma < 0 or rho <= 0:
            raise ValueError(f"every={every} must be at least 1, sigma={sigma} at least 0 and rho={rho} above 0")
        super().__init__(Spec(2, steps, 1, action_size=1), device)
        self.every, self.sigma, self.rho, self.spread = every, sigma, rho, spread

    @property
    def riccati(self) -> float:
        """P."""
        return (math.sqrt(1 + 4 * self.rho) - 1) / 2

    @property
    def gain(self) -> float:
        """k."""
        return (1 + self.riccati) / (1 + self.riccati + self.rho)

    def sign(self) -> Tensor:
        """(B,) b of the step to come."""
        flips = (self.clock // self.every) % 2
        return self.params["sign"] * (1 - 2 * flips.float())

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        return {"sign": torch.where(u[:, 0] < 0.5, -1.0, 1.0)}

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        """x is drawn from [-spread, spread], and the target begins there."""
        x = self.spread * (2 * u[:, 0] - 1)
        return {"x": x, "target": x.clone()}

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        pushed = actions[:, 0].clamp(-1, 1)
        x = self.state["x"] + self.sign() * pushed
        reward = -(x - self.state["target"]).square() - self.rho * pushed.square()
        walk = self.sigma * 2**0.5 * torch.erfinv((2 * u[:, 0] - 1).clamp(-0.999999, 0.999999))
        return {"x": x, "target": self.state["target"] + walk}, reward, torch.zeros_like(self.waiting)

    def observe(self) -> Tensor:
        return torch.stack([self.state["x"], self.state["target"]], 1)

    def planned_reward(self, observation: Tensor, actions: Tensor, after: Tensor) -> Tensor:
        """(...) what actions (..., 1) at observations (..., 2) pay that lead to `after` (..., 2)."""
        return -(after[..., 0] - observation[..., 1]).square() - self.rho * actions[..., 0].square()
