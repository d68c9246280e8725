"""What can be earned in the worlds that drift: running straight on what the legs have left, winning every round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mrt.control.agent import ScriptedAgent
from mrt.control.envs.drifting import FadingLegs
from mrt.control.envs.sumo import Sumo
from mrt.control.oracles.base import random_returns
from mrt.control.oracles.bounds import Bounds, floor_and_ceiling


def straight(forces: Tensor, levers: Tensor) -> Tensor:
    """(B, L) the best pushes that do not turn the body, for forces (B, L), up to a factor.

    The largest sum f d - sum d^2 / 2 with sum f l d = 0 is at d_i = f_i (1 - mu l_i), mu = sum f^2 l / sum f^2 l^2; its
    way is sum f d = sum d^2.
    """
    square = forces.square()
    torque, lever = (square * levers).sum(1, keepdim=True), (square * levers.square()).sum(1, keepdim=True)
    return forces * (1 - torque / lever.clamp(min=1e-12) * levers)


class StraightLegs(ScriptedAgent):
    """Knows every leg's force and never turns. Close to the optimum, which would give up the heading in the very last
    steps.
    """

    on_cpu = False

    def __init__(self, env: FadingLegs) -> None:
        self.env = env

    def choose(self, observation: Tensor, state: dict[str, Any]) -> Tensor:
        env = self.env
        reach = 1 - 0.7 ** (env.spec.episode_steps - env.clock).to(env.levers.dtype)  # of a push on all speeds to come
        return reach[:, None] * straight(env.forces(), env.levers) / (2 * env.effort)


@floor_and_ceiling.register
def _legs(env: FadingLegs, params: Mapping[str, Tensor]) -> Bounds:
    """Floor: mean of `RANDOM_TRIALS` random trials a task. Ceiling: straight on, in closed form:
    sum_t reach_t^2 mean(d^2) / (4 effort) an episode.
    """
    rows, steps = len(params["pair"]), env.spec.episode_steps
    scene = env.with_spec()
    scene.reset(params)
    total = torch.zeros(rows, device=env.device)
    pace = sum((1 - 0.7**t) ** 2 for t in range(1, steps + 1))
    for episode in range(env.spec.episodes):
        scene.episode = torch.full_like(scene.episode, episode)
        total += straight(scene.forces(), env.levers).square().mean(1) * pace / (4 * env.effort)
    return Bounds(random_returns(env, params), total)


@floor_and_ceiling.register
def _sumo(env: Sumo, params: Mapping[str, Tensor]) -> Bounds:
    """Floor: random play, as above. Ceiling: every round won; of the sparse reward only."""
    if env.reward == "dense":
        raise NotImplementedError("no bounds are known for sumo's dense reward")
    return Bounds(random_returns(env, params), torch.full_like(params["power"], float(env.spec.episodes)))
