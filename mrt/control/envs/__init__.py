"""Environments by name: `make_env("grid-navi", episodes=4)`, `make_tasks("bernoulli-bandit", arms=5)`; and those of
others: `make_tasks(gymnasium="Pendulum-v1", vary={"g": [5, 15]})`, `make_tasks(env="my_package:MyEnv")`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from mrt.control.envs.bandits import (
    BernoulliBandit,
    DependentBandit,
    GaussianBandit,
    InformativeBandit,
    MovingBandits,
    RestlessBandit,
)
from mrt.control.envs.base import SPLITS, EnvTasks, Spec, Step, TensorEnv
from mrt.control.envs.buses import BusGrid, MapGrid
from mrt.control.envs.cart_pole import CartPole
from mrt.control.envs.causal import CausalGraphs
from mrt.control.envs.corridors import Hallway, TMaze
from mrt.control.envs.decisions import CueRecall, ObjectChoice, TabularMDP, TwoStep
from mrt.control.envs.drifting import FadingLegs
from mrt.control.envs.foreign import foreign_env
from mrt.control.envs.grids import DarkRoom, GridNavi, KeyToDoor
from mrt.control.envs.hurdles import Hurdles
from mrt.control.envs.mazes import Maze
from mrt.control.envs.navigation import FourCorners, Navigation2D, PointRobot, SparseSemicircle
from mrt.control.envs.skills import DiscriminatorRoom, SkillRoom
from mrt.control.envs.sumo import Sumo
from mrt.control.envs.told import ToldTask
from mrt.errors import ConfigError, nearest

__all__ = ["ENVS", "SPLITS", "EnvTasks", "Spec", "Step", "TensorEnv", "make_env", "make_tasks"]

ENVS: dict[str, Callable[..., TensorEnv]] = {
    **{
        env.name: env
        for env in (
            *(BernoulliBandit, GaussianBandit, DependentBandit, RestlessBandit, InformativeBandit, MovingBandits),
            *(TwoStep, ObjectChoice, CueRecall, TabularMDP),
            *(GridNavi, DarkRoom, KeyToDoor, Hallway, Maze, BusGrid, MapGrid, SkillRoom, DiscriminatorRoom),
            *(PointRobot, SparseSemicircle, Navigation2D, FourCorners),
            *(FadingLegs, Sumo, CartPole, CausalGraphs, Hurdles),
        )
    },
    "t-maze": TMaze,  # its own name says whether the cue has to be fetched
}
"""Name -> environment class. Another package adds its own by assignment."""


def make_env(name: str = "", tell_task: bool = False, online: bool = False, **options: Any) -> TensorEnv:
    """The environment `name` with its options, or one that is not ours: `gymnasium`, an id, or `env`, a class as
    `module:Class`; see `mrt.control.envs.foreign`. With `tell_task` what defines the task is part of the observation.

    `online` is the online variant of meta-RL: the episodes of a trial become one stream of as many steps, without a
    reset; the task is adapted to while it goes on. Without it a trial is episodic: K rollouts, each from the start.

    Raises:
        ConfigError: for an unknown name or option, with the nearest valid one, or a value that it cannot take.
    """
    if tell_task:
        return ToldTask(make_env(name, online=online, **options))
    if online:
        return _in_one_stream(make_env(name, **options))
    others = [key for key in ("gymnasium", "env") if key in options]
    if len(others) + bool(name) != 1:
        raise ConfigError("tasks need one of name (an environment of ours), gymnasium (an id) and env (module:Class)")
    if others:
        return foreign_env(others[0], **{"identity": options.pop(others[0]), **options})
    if name not in ENVS:
        raise ConfigError(f"unknown environment '{name}'; {nearest(str(name), set(ENVS))}")
    valid = set(inspect.signature(ENVS[name]).parameters)
    for option in options:
        if option not in valid:
            raise ConfigError(f"environment '{name}' has no option '{option}'; {nearest(str(option), valid)}")
    try:
        return ENVS[name](**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"environment '{name}' with {options}: {error}") from error


def _in_one_stream(env: TensorEnv) -> TensorEnv:
    if not env.on_tensors:
        raise ConfigError(f"online: '{env.name}' is a Gymnasium environment, whose own limit ends its episodes")
    if env.spec.free_episodes:
        raise ConfigError(
            f"online: '{env.name}' has {env.spec.free_episodes} free episodes, which a stream has none of"
        )
    return env.with_spec(episode_steps=env.spec.trial_steps, episodes=1)


def make_tasks(name: str = "", split: str | None = None, **options: Any) -> EnvTasks:
    """p(M) of the environment `name`; `split` (train | test) keeps to tasks whose keys are in it.

    Raises:
        ConfigError: as `make_env`, and for an unknown split.
    """
    return EnvTasks(make_env(name, **options), split)
