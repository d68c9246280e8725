"""The navigation tasks' known-task optimum and standing still; undiscounted returns of one episode.

Both come by quadrature in float64. A step reaches a box, so both coordinates can run towards the goal at
once, each as fast as it can: that makes every distance on the way as small as it can be, and is the optimum wherever a
smaller distance pays no less. It is not the optimum of the four corners' sparse reward, which can be farmed: there it
is the return of going straight to the goal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mrt.control.agent import RandomAgent, ScriptedAgent
from mrt.control.envs.navigation import FourCorners, Navigation2D, PointEnv, PointRobot, SparseSemicircle
from mrt.control.interaction import play
from mrt.control.oracles.bounds import Bounds, floor_and_ceiling

NODES = 160  # of the quadrature, a coordinate; the error is about 1e-4
START_NODES = 48  # of a start, where there are many tasks as well
FLOOR_TRIALS = 64  # of random play, a task


def known_task(env: PointEnv, nodes: int = NODES) -> float:
    """Return of going straight to the goal, mean over tasks and starts (midpoint rule, `nodes` a coordinate)."""
    offsets, weights = _offsets(env, nodes)
    return float((_returns(env, offsets, env.stride) * weights).sum())


def stay(env: PointEnv, nodes: int = NODES) -> float:
    """Return of never moving, mean over tasks and starts."""
    offsets, weights = _offsets(env, nodes)
    return float((_returns(env, offsets, 0.0) * weights).sum())


class StraightPolicy(ScriptedAgent):
    """Knows the goal and runs to it. Where it is the optimum, see above."""

    on_cpu = False

    def __init__(self, env: PointEnv) -> None:
        self.env = env

    def choose(self, observation: Tensor, state: dict[str, Any]) -> Tensor:
        """(B, 2) in [-1, 1] from the positions (B, 2), which the goal may follow."""
        return ((self.env.params["goal"] - observation[:, :2]) / self.env.stride).clamp(-1, 1)


@floor_and_ceiling.register
def _point(env: PointEnv, params: Mapping[str, Tensor]) -> Bounds:
    """Floor: mean of `FLOOR_TRIALS` random trials a task, seed 0. Ceiling: straight to the goal, mean over starts."""
    paid = env.spec.episodes - env.spec.free_episodes
    once = env.with_spec(episodes=1, free_episodes=0)
    many = {name: value.repeat_interleave(FLOOR_TRIALS, 0) for name, value in params.items()}
    floor = play(once, RandomAgent(once.spec, seed=1), many)[:, 0].view(-1, FLOOR_TRIALS).mean(1)
    goals, which = torch.unique(params["goal"].double().cpu(), dim=0, return_inverse=True)
    axis = (2 * _midpoints(START_NODES) - 1) * env.start_reach if env.start_reach else torch.zeros(1).double()
    starts = torch.cartesian_prod(axis, axis)
    ceiling = torch.stack([_returns(env, (one - starts).abs(), env.stride).mean() for one in goals.unbind()])
    return Bounds(*(bound.to(params["goal"].device) for bound in (paid * floor, paid * ceiling[which])))


def _offsets(env: PointEnv, nodes: int) -> tuple[Tensor, Tensor]:
    """|goal - start| in each coordinate, (N, 2) float64, and the weights of these nodes (N,)."""
    u = _midpoints(nodes)
    if isinstance(env, SparseSemicircle):
        angle = _midpoints(nodes * nodes) * math.pi
        return torch.stack([angle.cos(), angle.sin()], dim=1).abs(), torch.full_like(angle, 1 / len(angle))
    if isinstance(env, PointRobot):  # two uniform numbers in [-1, 1] are d apart with density (2 - d) / 2
        axis, weight = 2 * u, (2 - 2 * u) / nodes
    elif isinstance(env, Navigation2D):
        axis, weight = u / 2, torch.full_like(u, 1 / nodes)
    elif isinstance(env, FourCorners):
        axis, weight = env.corner + (2 * u - 1) * env.start_reach, torch.full_like(u, 1 / nodes)
    else:
        raise NotImplementedError(f"no quadrature is known for {type(env).__name__}")
    return torch.cartesian_prod(axis, axis), torch.cartesian_prod(weight, weight).prod(dim=1)


def _midpoints(nodes: int) -> Tensor:
    return (torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes


def _returns(env: PointEnv, offsets: Tensor, pace: float) -> Tensor:
    """(N,) returns of running to the goal from the offsets (N, 2), `pace` a step in each coordinate."""
    left, away = offsets, offsets.square().sum(1).sqrt()
    total, going = torch.zeros_like(away), torch.ones_like(away, dtype=torch.bool)
    for _ in range(env.spec.episode_steps):
        before, left = away, (left - pace).clamp(min=0)
        away = left.square().sum(1).sqrt()
        total = total + torch.where(going, _reward(env, left, before, away), 0.0)
        if isinstance(env, Navigation2D):
            going = going & ~(left < env.near).all(1)
    return total


def _reward(env: PointEnv, left: Tensor, before: Tensor, away: Tensor) -> Tensor:
    """(N,) pay of a step that ends |goal - position| = left (N, 2) from the goal, at distance `away`."""
    if isinstance(env, FourCorners) and env.reward == "sparse":
        position = env.corner - left
        paid = (position >= 0).all(1) & (position.sum(1) >= env.quiet)
        return torch.where(paid, before - away, 0.0)
    if isinstance(env, SparseSemicircle) and env.reward == "sparse":
        return torch.where(away <= env.radius, 1 - away, 0.0)
    if isinstance(env, PointRobot) and env.radius:
        return torch.where(away <= env.radius, 0.0, -1.0).double()
    return -away * away if isinstance(env, Navigation2D) and env.squared else -away
