"""Environments on tensors, seen as pictures: where one is, drawn; nothing of the task.

    tasks: {env: classic_metarl.problems.pictures:Pictures, of: point-robot, options: {episodes: 2}}

An observation is a grey picture of `side` x `side` numbers in [0, 1], row after row. A point is a disc with a soft
edge, so that positions between two pixels differ too; a room shows its cell as a square.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mrt.control.envs import make_env
from mrt.control.envs.base import TensorEnv
from mrt.control.envs.grids import Room
from mrt.control.envs.navigation import PointEnv
from mrt.control.envs.wrappers import Wrapper
from mrt.control.oracles.bounds import Bounds, floor_and_ceiling
from mrt.errors import ConfigError

SIDE = 32
REACH = 2.0  # of the plane that is drawn: coordinates beyond are off the picture


class Pictures(Wrapper):
    """The environment `of` with its `options`, seen as pictures.

    Raises:
        ConfigError: for an environment that is neither a room nor a plane, and where the goal is shown.
    """

    def __init__(
        self,
        of: str = "point-robot",
        options: Mapping[str, Any] | None = None,
        side: int = SIDE,
        device: str | torch.device = "cpu",
    ) -> None:
        env = make_env(of, **{**(options or {}), "device": device})
        if not isinstance(env, PointEnv | Room) or getattr(env, "show_goal", False):
            raise ConfigError(f"pictures are drawn of rooms and of planes whose goal is not shown, not of '{of}'")
        if side < 8:
            raise ConfigError(f"side={side} must be at least 8 pixels")
        super().__init__(env)
        self.side, self.name = side, f"pictures of {env.name}"
        self.spec = replace(env.spec, observation=side * side)
        self.centres = (torch.arange(side, device=self.device) + 0.5) / side

    def observe(self) -> Tensor:
        """(B, side * side) of the present state."""
        env = self.inner
        if isinstance(env, PointEnv):
            place, radius = (env.state["position"] / REACH + 1) / 2, 2.0 / self.side
        else:
            assert isinstance(env, Room)
            place, radius = (env.xy[env.state["cell"]] + 0.5) / env.size, 0.5 / env.size
        across = (self.centres - place[:, :1].float()).abs()[:, None, :]  # x runs along a row of the picture
        down = (self.centres - place[:, 1:2].float()).abs()[:, :, None]
        away = torch.maximum(across, down) if isinstance(env, Room) else (across.square() + down.square()).sqrt()
        return ((radius - away) * self.side + 0.5).clamp(0, 1).flatten(1)

    def dense_reward(self) -> Tensor:
        """(B,) that of the environment within, for training alone.

        Raises:
            ConfigError: where it has none.
        """
        env: Any = self.inner
        if not hasattr(env, "dense_reward"):
            raise ConfigError(f"'{self.name}' has no dense reward")
        return env.dense_reward()


@floor_and_ceiling.register
def _seen(env: Pictures, params: Mapping[str, Tensor]) -> Bounds:
    """Those of the environment within: neither random play nor who knows the task looks at pictures."""
    inner: TensorEnv = env.env
    return floor_and_ceiling(inner, params)
