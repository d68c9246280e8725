"""A bandit whose best arm changes now and then, for learners that live through one long trial."""

from __future__ import annotations

import torch
from torch import Tensor

from mrt.control.envs.base import Spec, TensorEnv
from mrt.control.envs.grids import pick


class SwitchingBandit(TensorEnv):
    """`arms` arms, one of which pays 1 with chance `good` and the others with chance `bad`. Every `every` pulls another
    arm becomes the good one. One episode of `every` x `periods` pulls; the observation is 0.
    """

    name = "switching-bandit"
    step_draws = 1

    def __init__(
        self,
        arms: int = 5,
        every: int = 500,
        periods: int = 4,
        *,
        good: float = 0.9,
        bad: float = 0.1,
        device: str | torch.device = "cpu",
    ) -> None:
        if arms < 2 or every < 1 or periods < 1:
            raise ValueError(f"arms={arms} must be at least 2, every={every} and periods={periods} at least 1")
        super().__init__(Spec(1, every * periods, 1, actions=arms), device)
        self.arms, self.every, self.periods, self.good, self.bad = arms, every, periods, good, bad
        self.task_draws = periods

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        """The good arm of each period (B, periods): never that of the period before."""
        arms = [pick(u[:, 0], self.arms)]
        for number in range(1, self.periods):
            arms.append((arms[-1] + 1 + pick(u[:, number], self.arms - 1)) % self.arms)
        return {"best": torch.stack(arms, 1)}

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        return {"place": torch.zeros_like(self.clock)}

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        period = (self.clock // self.every).clamp(max=self.periods - 1)
        right = actions == self.params["best"].gather(1, period[:, None])[:, 0]
        chance = torch.where(right, self.good, self.bad)
        return {"place": self.state["place"]}, (u[:, 0] < chance).float(), torch.zeros_like(self.waiting)

    def observe(self) -> Tensor:
        return self.state["place"][:, None].float()
