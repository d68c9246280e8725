"""A point on a plane that has to find a goal: the toy problems of PEARL, MAESN, MAML, ProMP and E-MAML.

Actions (2,) in [-1, 1] (clamped) times `stride`, added to the position: a box, not a disc, of reach. The position is
all that is seen, so the task shows in the rewards alone. Distances are written out, without a library's norm, so that
the same float32 numbers come out anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from mrt.control.envs.base import Spec, TensorEnv
from mrt.control.envs.draws import reflected
from mrt.control.envs.grids import pick

Move = tuple[dict[str, Tensor], Tensor, Tensor]


def distance(a: Tensor, b: Tensor) -> Tensor:
    """(B,) Euclidean distances of the rows of a and b, (B, 2) each."""
    dx, dy = a[:, 0] - b[:, 0], a[:, 1] - b[:, 1]
    return (dx * dx + dy * dy).sqrt()


class PointEnv(TensorEnv):
    """What all have in common: params {"goal": (B, 2)}, state {"position": (B, 2)}, both float32.

    `start_reach`: each coordinate of the start is uniform in [-start_reach, start_reach], drawn in each episode; 0:
    always the origin.
    """

    stride = 0.1
    start_reach = 0.0
    task_draws = 2

    def __init__(self, steps: int, episodes: int, device: str | torch.device = "cpu") -> None:
        super().__init__(Spec(observation=2, episode_steps=steps, episodes=episodes, action_size=2), device)
        self.start_draws = 2 if self.start_reach else 0

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        if not self.start_reach:
            return {"position": torch.zeros(len(u), 2, device=self.device)}
        return {"position": (2 * u - 1) * self.start_reach}

    def observe(self) -> Tensor:
        return self.state["position"]

    def dense_reward(self) -> Tensor:
        """(B,) minus the distance to the goal at the present position. For training alone: it gives the goal away."""
        return -distance(self.state["position"], self.params["goal"])

    def reach(self, actions: Tensor) -> Tensor:
        """(B, 2) where the actions (B, 2) lead."""
        return self.state["position"] + actions.clamp(-1, 1) * self.stride


class PointRobot(PointEnv):
    """PEARL's dense point robot (Rakelly 2019, arXiv 1903.08254; as released): start and goal in [-1, 1]^2, 20 steps.

    The reward is minus the distance after the step; with a `radius` it is that of goal-conditioned learning, 0 within
    the radius of the goal and -1 elsewhere. With `show_goal` the observation is (x, y, goal x, goal y): nothing is left
    to be found out about the task, as for a policy that is told its goal.
    """

    name = "point-robot"
    start_reach = 1.0

    def __init__(
        self,
        steps: int = 20,
        episodes: int = 2,
        show_goal: bool = False,
        radius: float = 0.0,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(steps, episodes, device)
        self.show_goal, self.radius = show_goal, radius
        if show_goal:
            self.spec = replace(self.spec, observation=4)

    def observe(self) -> Tensor:
        position = self.state["position"]
        return torch.cat([position, self.params["goal"]], 1) if self.show_goal else position

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        return {"goal": 2 * u - 1}

    def task_ranges(self) -> dict[str, tuple[float, float]]:
        return {"goal": (-1.0, 1.0)}

    def move(self, actions: Tensor, u: Tensor) -> Move:
        position = self.reach(actions)
        reward = self.paid(position, self.params["goal"])
        return {"position": position}, reward, torch.zeros_like(reward, dtype=torch.bool)

    def paid(self, position: Tensor, goal: Tensor) -> Tensor:
        """The reward (B,) of a step to these positions (B, 2) for these goals (B, 2)."""
        away = distance(position, goal)
        return torch.where(away <= self.radius, 0.0, -1.0) if self.radius else -away


class SparseSemicircle(PointEnv):
    """PEARL's sparse point robot, MAESN's ring of goals: the goal on the upper unit semicircle, start at the origin.

    "sparse" pays 1 - distance within `radius` of the goal and nothing outside. "dense" pays minus the distance: PEARL
    and MAESN train on it and test on "sparse", which therefore is a declared choice here; PEARL's critic takes
    `dense_reward` while its context is given the sparse one. The tasks, and their keys, are the same.
    """

    name = "sparse-semicircle"
    task_draws = 1

    def __init__(
        self,
        reward: Literal["sparse", "dense"] = "sparse",
        radius: float = 0.2,
        steps: int = 20,
        episodes: int = 3,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(steps, episodes, device)
        self.reward, self.radius = reward, radius

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        return {"goal": _on_circle(u[:, 0].double() * math.pi)}

    def mutation_draws(self, params: Mapping[str, Tensor]) -> int:
        return 1

    def mutate(self, params: Mapping[str, Tensor], u: Tensor, size: float = 0.1) -> dict[str, Tensor]:
        """The goal moves along the half circle."""
        goal = params["goal"].double()
        angle = torch.atan2(goal[:, 1], goal[:, 0]) + size * math.pi * (2 * u[:, 0].double() - 1)
        return {"goal": _on_circle(reflected(angle, 0.0, math.pi))}

    def move(self, actions: Tensor, u: Tensor) -> Move:
        position = self.reach(actions)
        away = distance(position, self.params["goal"])
        reward = -away if self.reward == "dense" else torch.where(away <= self.radius, 1 - away, 0.0)
        return {"position": position}, reward, torch.zeros_like(reward, dtype=torch.bool)


class Navigation2D(PointEnv):
    """MAML's 2-D navigation (Finn 2017, arXiv 1703.03400): goal in [-0.5, 0.5]^2, start at the origin, 100 steps.

    The reward is minus the distance after the step, the episode ends within 0.01 of the goal in both coordinates. The
    paper writes minus the squared distance; its code, and the numbers it prints, have the distance: `squared` is for
    those who want the former.
    """

    name = "navigation-2d"
    near = 0.01

    def __init__(
        self, squared: bool = False, steps: int = 100, episodes: int = 1, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__(steps, episodes, device)
        self.squared = squared

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        return {"goal": u - 0.5}

    def task_ranges(self) -> dict[str, tuple[float, float]]:
        return {"goal": (-0.5, 0.5)}

    def move(self, actions: Tensor, u: Tensor) -> Move:
        position = self.reach(actions)
        away = distance(position, self.params["goal"])
        there = ((position - self.params["goal"]).abs() < self.near).all(dim=1)
        return {"position": position}, -away * away if self.squared else -away, there


class FourCorners(PointEnv):
    """The four-corner environment of ProMP (Rothfuss 2019, arXiv 1810.06784; as released), E-MAML's kind of problem.

    The goal is one of the corners (+-2, +-2), the start lies within 0.2 of the origin in each coordinate, a step
    reaches 0.2. "sparse" pays the progress made, distance before minus distance after, where the step ends in the
    goal's quadrant and at least 0.5 from the origin (sum of the coordinates' absolute values), nothing elsewhere.
    "dense" pays minus the distance.

    Going straight to the goal earns 2.6. The sparse reward can be farmed, though: a way back into the unpaid middle
    costs nothing and pays again on return, about 15 in 100 steps. Returns above 2.83 mean that a policy has found
    that out.
    """

    name = "four-corners"
    stride = 0.2
    start_reach = 0.2
    task_draws = 1
    quiet = 0.5  # unpaid middle, in the 1-norm
    corner = 2.0

    def __init__(
        self,
        reward: Literal["sparse", "dense"] = "sparse",
        steps: int = 100,
        episodes: int = 2,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(steps, episodes, device)
        self.reward = reward

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        which = pick(u[:, 0], 4)
        signs = torch.stack([2 * (which % 2) - 1, 2 * (which // 2) - 1], dim=1)  # (-,-), (+,-), (-,+), (+,+)
        return {"goal": self.corner * signs.float()}

    def move(self, actions: Tensor, u: Tensor) -> Move:
        position, goal = self.reach(actions), self.params["goal"]
        before, after = distance(self.state["position"], goal), distance(position, goal)
        # In the goal's quadrant no other corner is nearer; the axes belong to both sides.
        paid = (position * goal >= 0).all(dim=1) & (position.abs().sum(dim=1) >= self.quiet)
        reward = -after if self.reward == "dense" else torch.where(paid, before - after, 0.0)
        return {"position": position}, reward, torch.zeros_like(paid)


def _on_circle(angle: Tensor) -> Tensor:
    """(B, 2) float32 points at angles (B,), float64: the last digit of a float32 cosine depends on the machine."""
    return torch.stack([angle.cos(), angle.sin()], dim=1).float()
