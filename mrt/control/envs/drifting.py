"""Worlds that change between the episodes of a trial: continuous adaptation (Al-Shedivat et al. 2018, 1710.03641).

A task is a chain of stages: stage s lasts `each` episodes, and the next one differs from it by a rule that is the same
for all tasks. The stage that a trial begins in is a parameter, so that any two neighbours can be played as a pair.
Square roots and products only, so that the same float32 numbers come out anywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mrt.control.envs.base import Spec, TensorEnv
from mrt.control.envs.grids import pick

Start = Literal["first", "any"]


def check_chain(chain: int, stages: int) -> None:
    """Raises ValueError for a chain that is longer than the stages of a task, or shorter than one."""
    if not 1 <= chain <= stages:
        raise ValueError(f"chain={chain} must be from 1 to the {stages} stages of a task")


def first_stage(u: Tensor, stages: int, chain: int, start: Start) -> Tensor:
    """(B,) int64 where a trial begins: u (B,) picks among the stages that leave room for `chain` of them."""
    return pick(u, stages - chain + 1 if start == "any" else 1)


class FadingLegs(TensorEnv):
    """A body that runs on six legs, two of which lose their force from stage to stage, down to none in the last.

    After the paper's six-legged robot (section 5.1: a pair of legs is scaled down from 1 to 0 over seven episodes), as
    a point with a heading. Leg i pushes with a_i times its force, at the lever LEVERS[i] to the left or right of the
    middle:

        speed <- 0.7 speed + 0.3 mean(push)     turn <- 0.7 turn + 0.3 mean(lever push)     heading += GAIN turn
        reward = speed * cos(heading) - effort * mean(a^2): the way made along the track, less what it took

    Observation: speed, and the time in the episode. The body has no compass: what a weak leg does to the heading shows
    in the rewards alone, unless `compass` adds (cos, sin) of the heading and the turn. 15 tasks, the pairs of legs.

    Args:
        stages: from full force to none. each: episodes of a stage. steps: of an episode.
        start: "first": trials begin in stage 0. "any": where `chain` - 1 others follow, drawn for each task.
        chain: stages that are played from there, in turn.
        loss: share of their force that the legs have lost in the last stage; 2 turns it round.
        effort: price of a push; above 0, for nothing else bounds it.
    """

    name = "fading-legs"
    task_draws = 2
    LEVERS = (1.0, 0.8, 0.6, -0.6, -0.8, -1.0)
    GAIN = 0.5

    def __init__(
        self,
        stages: int = 7,
        each: int = 5,
        steps: int = 30,
        *,
        start: Start = "first",
        loss: float = 1.0,
        effort: float = 0.5,
        compass: bool = False,
        device: str | torch.device = "cpu",
        chain: int = 2,
    ) -> None:
        if stages < 2 or each < 1 or start not in ("first", "any"):
            raise ValueError(
                f"stages={stages}, each={each}, start={start!r}: stages must be at least 2, each at "
                "least 1, start first or any"
            )
        check_chain(chain, stages)
        if effort <= 0:
            raise ValueError(f"effort={effort} must be above 0")
        legs = len(self.LEVERS)
        super().__init__(Spec(5 if compass else 2, steps, stages * each, action_size=legs), device)
        self.stages, self.each, self.start, self.loss = stages, each, start, loss
        self.effort, self.compass, self.chain = effort, compass, chain
        self.levers = torch.tensor(self.LEVERS, device=device)
        self.pairs = torch.tensor(list(itertools.combinations(range(legs), 2)), device=device)

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        begin = first_stage(u[:, 1], self.stages, self.chain, self.start)
        return {"pair": pick(u[:, 0], len(self.pairs)), "stage": begin}

    def task_key(self, params: Mapping[str, Tensor], row: int) -> str:
        """The pair of legs: where in its chain a trial begins makes no other task of it."""
        return f"{self.name}:pair={int(params['pair'][row])}"

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        zeros = torch.zeros(len(u), device=self.device)
        return {"speed": zeros, "turn": zeros, "heading": torch.stack([zeros + 1, zeros], 1)}

    def forces(self) -> Tensor:
        """(B, 6) what is left of each leg's force in the present stage."""
        stage = (self.params["stage"] + self.episode // self.each).clamp(max=self.stages - 1)
        weak = 1 - self.loss * stage.float() / (self.stages - 1)
        chosen = self.pairs.to(stage.device)[self.params["pair"]]
        whole = torch.ones(len(stage), len(self.LEVERS), device=stage.device)
        return whole.scatter(1, chosen, weak[:, None].expand_as(chosen))

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        push = actions * self.forces()
        speed = 0.7 * self.state["speed"] + 0.3 * push.mean(1)
        turn = 0.7 * self.state["turn"] + 0.3 * (push * self.levers).mean(1)
        heading = rotated(self.state["heading"], self.GAIN * turn)
        reward = speed * heading[:, 0] - self.effort * actions.square().mean(1)
        return {"speed": speed, "turn": turn, "heading": heading}, reward, torch.zeros_like(self.waiting)

    def observe(self) -> Tensor:
        time = self.clock.float() / self.spec.episode_steps
        seen = [self.state["speed"][:, None], time[:, None]]
        if self.compass:
            seen += [self.state["heading"], self.state["turn"][:, None]]
        return torch.cat(seen, 1)


def rotated(direction: Tensor, by: Tensor) -> Tensor:
    """(B, 2) unit vectors turned to the left by about `by` (B,) (its arcus tangens), of length 1 again."""
    x, y = direction[:, 0], direction[:, 1]
    x, y = x - by * y, y + by * x
    size = (x * x + y * y).sqrt()
    return torch.stack([x / size, y / size], 1)
