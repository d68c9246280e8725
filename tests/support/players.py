"""Random play, and a player that no oracle has: what oracles' figures are measured against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mrt.control.agent import RandomAgent
from mrt.control.envs.base import EnvTasks
from mrt.control.envs.navigation import FourCorners, PointEnv
from mrt.control.interaction import play
from mrt.control.oracles.base import mean_and_se
from mrt.control.oracles.grids import episode_values
from mrt.control.oracles.navigation import StraightPolicy


def random_return(env: Any, params: Mapping[str, Tensor] | None = None) -> float:
    """Return of one episode of uniformly random actions in a finite environment: mean over `params` {name: (B, ...)},
    or over all tasks.
    """
    return float(episode_values(env, env.all_tasks() if params is None else params, "random").mean())


def random_point_return(env: PointEnv, tasks: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Return of an episode of uniformly random actions: mean over so many tasks, and its standard error."""
    once = env.with_spec(episodes=1)
    params = EnvTasks(once).batch(seed, range(tasks))
    # Not the environment's own seed: start and first action would come from the same numbers.
    return mean_and_se(play(once, RandomAgent(once.spec, seed + 1), params, seed)[:, 0])


class FarmingPolicy(StraightPolicy):
    """Shows that the four corners' sparse reward can be farmed: out of the unpaid middle and back in, all the episode.

    Stepping out pays the progress made, stepping back in costs nothing. It runs to the goal in time for the end.
    """

    def __init__(self, env: FourCorners) -> None:
        super().__init__(env)
        self.corner = env.corner - env.quiet / 2

    def choose(self, observation: Tensor, state: dict[str, Any]) -> Tensor:
        """(B, 2) in [-1, 1] from the positions (B, 2)."""
        left = self.env.spec.episode_steps - self.env.clock
        outside = observation.abs().sum(dim=1) >= self.env.quiet  # type: ignore[attr-defined]
        back = outside & (left > self.corner / self.env.stride + 1)
        toward = torch.where(back[:, None], -self.env.params["goal"].sign(), self.env.params["goal"] - observation)
        return (toward / self.env.stride).clamp(-1, 1)
