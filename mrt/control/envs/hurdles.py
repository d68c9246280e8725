"""A course with stumps to jump over and gaps to jump across: tasks of every difficulty, as POET's obstacle courses, on
tensors and in two dimensions (after Wang et al. 2019, arXiv 1901.01753, whose walker is Box2D's).

A body runs along x and jumps; it is a point. On the ground it is pushed and slowed, in the air it flies. A stump stops
whoever is lower, and can be stood on; whoever comes down in a gap has fallen. The reward is the way that a step makes,
as a share of the course: 1 for all of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrt.control.envs.base import Spec, TensorEnv

STEP, GRAVITY, PUSH, DRAG, JUMP = 0.1, 6.0, 3.0, 1.5, 3.0  # the highest jump is 0.75, at a speed of 2 it goes 2 far
STARTS = (3.0, 6.0, 9.0, 12.0)  # of the obstacles: stump, gap, stump, gap
LENGTH, DEEP, THICK = 14.5, -0.5, 0.3
HIGHEST, WIDEST = 0.7, 1.7


class Hurdles(TensorEnv):
    """A task is the height of the stumps and the width of the gaps, each from 0 (none) to 1 (hardly to be done).

    Actions (2,) in [-1, 1]: a push along x, and a jump where above 0; both on the ground only. Observation (7): speeds,
    height, on the ground or not, the way to the next obstacle (at most 3, as a share of it), its height, its width.
    """

    name = "hurdles"
    task_draws = 2

    def __init__(self, steps: int = 120, episodes: int = 1, device: str | torch.device = "cpu") -> None:
        super().__init__(Spec(observation=7, episode_steps=steps, episodes=episodes, action_size=2), device)

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        return {"height": u[:, 0], "width": u[:, 1]}

    def task_ranges(self) -> dict[str, tuple[float, float]]:
        return {"height": (0.0, 1.0), "width": (0.0, 1.0)}

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        return {"body": torch.zeros(len(u), 4, device=self.device)}  # x, height, both speeds

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        x, y, speed, rise = self.state["body"].unbind(1)
        push, jump = actions.clamp(-1, 1).unbind(1)
        grounded = y <= self.ground(x, y) + 1e-6
        speed = torch.where(grounded, speed + STEP * (PUSH * push - DRAG * speed), speed)
        rise = torch.where(grounded, JUMP * jump.clamp(min=0), rise - STEP * GRAVITY)
        ahead, up = (x + STEP * speed).clamp(min=0), y + STEP * rise
        blocked = self.inside_stump(ahead) & (up < self.params["height"] * HIGHEST) & ~self.inside_stump(x)
        ahead, speed = torch.where(blocked, x, ahead), torch.where(blocked, 0.0, speed)
        floor = self.ground(ahead, torch.maximum(y, up))
        landed = up <= floor
        up, rise = torch.where(landed, floor, up), torch.where(landed & (rise < 0), 0.0, rise)
        over = (up < DEEP) | (ahead >= LENGTH)
        body = torch.stack([ahead.clamp(max=LENGTH), up, speed, rise], 1)
        return {"body": body}, (body[:, 0] - x) / LENGTH, over

    def observe(self) -> Tensor:
        x, y, speed, rise = self.state["body"].unbind(1)
        starts = torch.tensor([*STARTS, LENGTH], device=self.device)
        ends = torch.stack([*(start + self.width(i) for i, start in enumerate(STARTS)), starts[-1] + 0 * x], 1)
        following = (ends > x[:, None]).float().argmax(1)
        way = ((starts[following] - x) / 3).clamp(-1, 1)
        stump, gap = (following % 2 == 0) & (following < 4), following % 2 == 1
        height = torch.where(stump, self.params["height"], 0.0)
        width = torch.where(gap, self.params["width"], 0.0)
        grounded = (y <= self.ground(x, y) + 1e-6).float()
        return torch.stack([speed, rise, y, grounded, way, height, width], 1)

    def width(self, obstacle: int) -> Tensor:
        """(B,) of an obstacle, along x."""
        size = self.params["width"]
        return size * WIDEST if obstacle % 2 else torch.full_like(size, THICK)

    def inside_stump(self, x: Tensor) -> Tensor:
        """(B,) whether there is a stump at x."""
        return ((x > STARTS[0]) & (x < STARTS[0] + THICK)) | ((x > STARTS[2]) & (x < STARTS[2] + THICK))

    def ground(self, x: Tensor, y: Tensor) -> Tensor:
        """(B,) height of the ground at x for whoever is at the height y: a stump's top from above, nothing in a gap."""
        top = self.params["height"] * HIGHEST
        floor = torch.where(self.inside_stump(x) & (y >= top - 1e-6), top, 0.0)
        for start in (STARTS[1], STARTS[3]):
            floor = torch.where((x > start) & (x < start + self.width(1)), -torch.inf, floor)
        return floor
