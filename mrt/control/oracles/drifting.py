"""What can be earned in the worlds that drift: running straight on what the legs have left, winning every round."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mrt.control.envs.base import Step, TensorEnv
from mrt.control.envs.drifting import FadingLegs
from mrt.control.envs.sumo import Sumo
from mrt.control.oracles.base import RandomPolicy, play
from mrt.control.oracles.bounds import Bounds, floor_and_ceiling

FLOOR_TRIALS = 16  # of random play, a task


def straight(forces: Tensor, levers: Tensor) -> tuple[Tensor, Tensor]:
    """The fastest actions that do not turn the body: (B,) sum of the pushes and (B, L) actions, for forces (B, L).

    max sum f a  with  sum f l a = 0, |a| <= 1. Its dual is min over x of sum f |1 - x l|, convex and linear between
    x = 1 / l_i: the least of these is the value. Legs with 1 - x l above 0 push fully, those below 0 pull, and the one
    at 0 balances. A force below 0 is one turned round.
    """
    forces, turned = forces.abs(), forces.sign()
    candidates = (1 - levers / levers[:, None]).abs()  # (i, j): |1 - l_j / l_i|
    totals = forces @ candidates.T
    value, best = totals.min(1)
    actions = (1 - levers / levers[best][:, None]).sign()
    rows = torch.arange(len(forces), device=forces.device)
    actions[rows, best] = 0
    torque = (forces * levers * actions).sum(1)
    own = (forces * levers)[rows, best]
    level = levers == levers[best][:, None]  # legs of the same lever share the balance
    share = (forces * level).sum(1)
    balance = torch.where(own == 0, torch.zeros_like(own), -torque / (levers[best] * share).where(share > 0, own + 1))
    return value, turned * torch.where(level, balance[:, None], actions)


class StraightLegs:
    """Knows every leg's force and never turns; for `mrt.control.oracles.play`. Close to the optimum, which would let
    the heading go in the very last steps.
    """

    def __init__(self, env: FadingLegs) -> None:
        self.env = env

    def reset(self, rows: int) -> None:
        """Nothing is remembered."""

    def act(self, observation: Tensor) -> Tensor:
        return straight(self.env.forces(), self.env.levers)[1]

    def update(self, actions: Tensor, step: Step) -> None:
        """Nothing is learned."""


@floor_and_ceiling.register
def _legs(env: FadingLegs, params: Mapping[str, Tensor]) -> Bounds:
    """Floor: mean of `FLOOR_TRIALS` random trials a task, seed 0. Ceiling: straight on, in closed form a step."""
    rows, steps = len(params["pair"]), env.spec.episode_steps
    scene = env.with_spec()
    scene.reset(params)
    total = torch.zeros(rows, device=env.device)
    pace = sum(1 - 0.7**t for t in range(1, steps + 1))  # the speeds of an episode while pushing by 1
    for episode in range(env.spec.episodes):
        scene.episode = torch.full_like(scene.episode, episode)
        total += straight(scene.forces(), env.levers)[0] / len(env.LEVERS) * pace
    return Bounds(_random(env, params), total)


@floor_and_ceiling.register
def _sumo(env: Sumo, params: Mapping[str, Tensor]) -> Bounds:
    """Floor: random play, as above. Ceiling: every round won; of the sparse reward only."""
    if env.reward == "dense":
        raise NotImplementedError("no bounds are known for sumo's dense reward")
    return Bounds(_random(env, params), torch.full((len(params["power"]),), float(env.spec.episodes)))


def _random(env: TensorEnv, params: Mapping[str, Tensor]) -> Tensor:
    many = {name: value.repeat_interleave(FLOOR_TRIALS, 0) for name, value in params.items()}
    return play(env.with_spec(), RandomPolicy(env.spec, seed=1), many).sum(1).view(-1, FLOOR_TRIALS).mean(1).float()
