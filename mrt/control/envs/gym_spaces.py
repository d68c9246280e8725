"""Which Gymnasium spaces a policy on tensors can see and act in, and what to do about the others."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from mrt.errors import ConfigError

LARGEST = float(np.finfo(np.float32).max) / 2  # a bound from here on says that there is none
EXACT = 2**53  # integers up to here are float64 numbers


def observation_width(space: Any, name: str) -> int:
    """Numbers of a flattened observation.

    Raises:
        ConfigError: for a space that has no vector form of one length.
    """
    if not space.is_np_flattenable:
        raise ConfigError(
            f"observations of '{name}', {space}, have no vector form of one length: give gymnasium.wrappers."
            "TransformObservation(env, function, box) or FilterObservation(env, keys) around the environment"
        )
    return int(spaces.flatdim(space))


def check_actions(space: Any, name: str) -> None:
    """Raises ConfigError, naming a wrapper that helps, unless actions are `Discrete` or a `Box` with bounds."""
    if isinstance(space, spaces.Discrete):
        return
    around = "wrap the environment in gymnasium.wrappers.TransformAction"
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        counts = np.asarray(space.nvec if isinstance(space, spaces.MultiDiscrete) else [2] * int(np.prod(space.shape)))
        total = int(np.prod(counts.astype(np.float64)))
        raise ConfigError(
            f"actions of '{name}', {space}, are neither discrete nor a box: {around}(env, lambda i: numpy.array("
            f"numpy.unravel_index(i, {tuple(counts.reshape(-1).tolist())})), gymnasium.spaces.Discrete({total}))"
        )
    if not isinstance(space, spaces.Box):
        raise ConfigError(
            f"actions of '{name}', {space}, are neither discrete nor a box: {around}(env, function, space) with a "
            "gymnasium.spaces.Discrete or Box and a function from its actions to those of the environment"
        )
    integer = np.issubdtype(space.dtype, np.integer)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    widest = np.maximum(np.abs(low), np.abs(high))
    if not (widest < (EXACT if integer else LARGEST)).all():
        raise ConfigError(
            f"actions of '{name}', {space}, have no bounds that [-1, 1] could be scaled to: {around}(env, lambda a: a, "
            f"gymnasium.spaces.Box(-1, 1, {space.shape})), with bounds that make sense for the environment"
        )


def own_actions(space: Any, actions: Any) -> Any:
    """Actions as policies give them, (B,) numbers from 0 or (B, A) in [-1, 1], as a batch of those of `space`.

    Boxes are scaled, integers rounded; what lies outside [-1, 1] is clipped.
    """
    if isinstance(space, spaces.Discrete):
        return actions.astype(space.dtype).reshape(-1) + space.start
    low, high = (side.astype(np.float64).reshape(-1) for side in (space.low, space.high))
    scaled = low + (np.clip(actions.astype(np.float64).reshape(len(actions), -1), -1, 1) + 1) / 2 * (high - low)
    if np.issubdtype(space.dtype, np.integer):
        scaled = np.rint(scaled)
    return scaled.astype(space.dtype).reshape(-1, *space.shape)
