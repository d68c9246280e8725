"""Whether a trial explored: the one act that each environment of the study has for it."""

from __future__ import annotations

from torch import Tensor

from mrt.control.envs.bandits import InformativeBandit
from mrt.control.envs.base import TensorEnv
from mrt.control.envs.buses import RIDE, SIZE, BusGrid
from mrt.control.envs.corridors import Hallway
from mrt.errors import ConfigError
from mrt.trials import Trials

EXPLORING = {
    "informative": "arm 11 was asked",
    "hallway": "the sign was read in the first episode",
    "semicircle": "the goal was found in some episode",
    "bus": "a bus was ridden in the free episode",
    "map": "the map was seen in the free episode",
}


def explored(env: TensorEnv, trials: Trials) -> Tensor:
    """(B,) bool: which trials explored, as `EXPLORING` says.

    Raises:
        ConfigError: for an environment that is none of the study's.
    """
    view, first = trials.inputs["observation"], trials.episode == 0  # the closing row of an episode is one of its rows
    if isinstance(env, InformativeBandit):
        return ((trials.actions == env.informative_action) & trials.mask).any(1)
    if isinstance(env, Hallway):
        return ((view[..., 2] != 0) & first).any(1)
    if isinstance(env, BusGrid) and env.shows_map:
        return (view[..., -len(env.plans) :].any(2) & first).any(1)
    if isinstance(env, BusGrid):
        return ((trials.actions == RIDE) & (view[..., 2 * SIZE] > 0) & first & trials.mask).any(1)
    if getattr(env, "reward", "") == "sparse":
        return (trials.rewards > 0).any(1)
    raise ConfigError(f"nothing says what exploring is in {env.name}")
