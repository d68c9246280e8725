"""One-shot imitation in the plane: two coloured targets, and only a demonstration says to which colour to go.

A task is a colour (0 or 1 of the two in the scene). The demonstrator walks straight to the target of that colour; the
second scene has other positions and the order of the targets in the observation says nothing. Without adaptation the
right target is reached half of the time, which is what tells a meta-learner from an average.

Observation (8,): own position, position of target a, its colour, position of target b, its colour. Colours are one
number in [-1, 1] each, drawn with the task so that either could be the right one: "which colour" has to be read off the
demonstration. Actions (2,) are displacements of at most `STEP`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mrt.errors import ConfigError
from mrt.tasks import Task, generator

STEP, NEAR = 0.2, 0.15
APART = 0.2  # of the range of colours, at least
Scene = tuple[Tensor, Tensor]  # targets (M, 2, 2) by place, and which place (M,) is right


@dataclass(frozen=True)
class Reaching:
    """p(M), as the supervised trainer asks for it: the first demonstration is the support set, the second the queries.

    Args:
        horizon: steps of a demonstration.
        noise: standard deviation of the demonstrator's path about the straight line, so that states off it are seen.
    """

    horizon: int = 12
    noise: float = 0.05
    name: str = "reaching"
    stages: int = 1
    inputs: int = 8

    def __post_init__(self) -> None:
        if self.horizon < 2 or self.stages != 1 or self.inputs != 8:
            raise ConfigError(f"reaching: horizon={self.horizon} must be at least 2; stages and inputs are fixed")

    @property
    def shots(self) -> int:
        """Steps of the demonstration."""
        return self.horizon

    @property
    def queries(self) -> int:
        """Steps of the second demonstration."""
        return self.horizon

    def sample(self, seed: int, index: int) -> Task:
        """Two colours, the right one first, and two scenes of targets, order and the demonstrator's noise."""
        source = generator(seed, index)
        first, between = torch.rand(2, generator=source)
        second = (first + APART + (1 - 2 * APART) * between) % 1  # round a circle: neither colour tells which one it is
        colours = torch.stack([first, second]) * 2 - 1
        targets = torch.rand(2, 2, 2, generator=source) * 2 - 1  # scene, right or wrong, place
        order = torch.randint(2, (2,), generator=source)  # of the right target in each scene
        noise = torch.randn(2, self.horizon, 2, generator=source)
        return Task(f"{seed}:{index}", {"colours": colours, "targets": targets, "order": order, "noise": noise})

    def scene(self, tasks: Sequence[Task], number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Scene 0 or 1: targets (M, 2, 2) and colours (M, 2) in the order they are seen, and the right target (M,)."""
        targets = torch.stack([t.data["targets"][number] for t in tasks])
        colours = torch.stack([t.data["colours"] for t in tasks])
        right = torch.stack([t.data["order"][number] for t in tasks])
        turned = right[:, None] == 1
        return targets.where(~turned[..., None], targets.flip(1)), colours.where(~turned, colours.flip(1)), right

    def demonstration(self, tasks: Sequence[Task], number: int) -> tuple[Tensor, Tensor]:
        """Observations (M, T, 8) and actions (M, T, 2) of the demonstrator in a scene."""
        targets, colours, right = self.scene(tasks, number)
        goal = targets[torch.arange(len(tasks)), right]
        noise = torch.stack([t.data["noise"][number] for t in tasks])
        place, seen, done = torch.zeros_like(goal), [], []
        for t in range(self.horizon):
            seen.append(observation(place, targets, colours))
            done.append(towards(place, goal))
            place = place + done[-1] + self.noise * noise[:, t]
        return torch.stack(seen, 1), torch.stack(done, 1)

    def examples(self, tasks: Sequence[Task]) -> tuple[Tensor, Tensor]:
        """The two demonstrations, one behind the other."""
        first, second = (self.demonstration(tasks, number) for number in (0, 1))
        return torch.cat([first[0], second[0]], 1), torch.cat([first[1], second[1]], 1)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(..., n) squared error of the action, in steps."""
        return ((outputs - targets) / STEP).square().sum(-1)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(..., n) minus the loss."""
        return -self.losses(outputs, targets)

    def bounds(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(M,) no error, and that of standing still."""
        floor = -(targets / STEP).square().sum(-1).mean(-1)
        return torch.zeros_like(floor), floor

    def reached(
        self, tasks: Sequence[Task], policy: Callable[[Tensor], Tensor], steps: int = 20
    ) -> tuple[Tensor, Tensor]:
        """(M,) whether a policy (observations (M, 1, 8) -> actions (M, 1, 2), on any device) ends within NEAR of the
        right target of the second scene, and whether of the wrong one; targets that are nearer than twice that to each
        other, or to the start, count like all others.
        """
        targets, colours, right = self.scene(tasks, 1)
        place = torch.zeros(len(tasks), 2)
        for _ in range(steps):
            action = policy(observation(place, targets, colours)[:, None])[:, 0].cpu()
            place = place + action * (STEP / action.norm(dim=-1, keepdim=True).clamp(min=STEP))
        near = (targets - place[:, None]).norm(dim=-1) < NEAR
        rows = torch.arange(len(tasks))
        return near[rows, right], near[rows, 1 - right]


def observation(place: Tensor, targets: Tensor, colours: Tensor) -> Tensor:
    """(M, 8) of own place (M, 2), targets (M, 2, 2) and colours (M, 2)."""
    first, second = ([targets[:, i], colours[:, i, None]] for i in (0, 1))
    return torch.cat([place, *first, *second], -1)


def towards(place: Tensor, goal: Tensor) -> Tensor:
    """(M, 2) the step to the goal, at most `STEP` long."""
    way = goal - place
    return way * (STEP / way.norm(dim=-1, keepdim=True).clamp(min=STEP))
