"""Two roads: the first action of an episode decides, and what it leads to comes at once, late, or never."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mrt.control.envs.base import Spec, TensorEnv

Kind = Literal["late", "noise"]


class Roads(TensorEnv):
    """An episode of `steps` steps. Action 0 in the first takes the near road, action 1 the far one; later actions do
    nothing. Both kinds of world are one MDP without a task to find out.

    late: the near road pays `near` at once, the far one 1 in the last step, without any noise.
    noise: the near road pays `near` at once and the far one nothing; after that every step pays noise of deviation
        `noise`, whatever was done.

    Observation (1 + 2 (steps - 1)): one-hot, the start or the step on either road.
    """

    name = "roads"
    step_draws = 1

    def __init__(
        self,
        kind: Kind = "late",
        steps: int = 8,
        *,
        near: float = 0.3,
        noise: float = 1.0,
        device: str | torch.device = "cpu",
    ) -> None:
        if kind not in ("late", "noise") or steps < 2:
            raise ValueError(f"kind={kind!r} must be late or noise, steps={steps} at least 2")
        super().__init__(Spec(1 + 2 * (steps - 1), steps, 1, actions=2), device)
        self.kind, self.near, self.noise = kind, near, noise

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        return {"world": torch.zeros(len(u), dtype=torch.long)}

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        zeros = torch.zeros(len(u), dtype=torch.long, device=self.device)
        return {"road": zeros, "step": zeros.clone()}

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        start, last = self.state["step"] == 0, self.state["step"] == self.spec.episode_steps - 1
        road = torch.where(start, actions, self.state["road"])
        reward = torch.where(start & (road == 0), self.near, 0.0)
        if self.kind == "late":
            reward = torch.where(last & (road == 1), 1.0, reward)
        else:
            drawn = self.noise * 2**0.5 * torch.erfinv((2 * u[:, 0] - 1).clamp(-0.999999, 0.999999))
            reward = torch.where(start, reward, drawn)
        return {"road": road, "step": self.state["step"] + 1}, reward, last

    def observe(self) -> Tensor:
        step = self.state["step"].clamp(max=self.spec.episode_steps - 1)
        place = torch.where(step == 0, 0, step + self.state["road"] * (self.spec.episode_steps - 1))
        return (place[:, None] == torch.arange(self.spec.observation, device=self.device)).float()
