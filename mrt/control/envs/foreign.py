"""Environments of others, as a recipe names them:

    tasks: {gymnasium: Pendulum-v1, vary: {g: [5, 15]}, episodes: 3}
    tasks: {env: my_package:MyEnv, size: 4}                              (mrt train --allow-code)

A task of a Gymnasium environment is a value of each parameter in `vary`. Parameters, fixed ones too, are arguments of
the constructor where it takes them (as `gymnasium.make` passes them on), else attributes of the unwrapped environment.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

from mrt.control.envs.base import TensorEnv
from mrt.control.envs.variation import Variation
from mrt.errors import ConfigError, nearest
from mrt.runs.code import OUR_PACKAGES, import_named

OWN = {"episodes", "episode_steps", "free_episodes", "vectorization"}
TAKEN = {"env", "task", "task_draws", "name", "attributes"}  # other arguments of `GymEnv`


def foreign_env(key: str, identity: str, **options: Any) -> TensorEnv:
    """The environment of a Gymnasium id (`key` is "gymnasium") or of a class, module:Class (`key` is "env").

    Only modules of ours, or that are imported already, are looked into: `--allow-code` imports those of a recipe.

    Raises:
        ConfigError: for what does not exist, is not an environment, or does not take its options.
    """
    module = identity.partition(":")[0]
    foreign = ":" in identity and module.split(".")[0] not in OUR_PACKAGES
    if foreign and module not in sys.modules:
        raise ConfigError(
            f"tasks.{key} '{identity}' is code from outside mrt: allow it with --allow-code, or import it"
        )
    if key == "gymnasium":
        return _gymnasium(identity, options)
    found = import_named(identity, "tasks.env", allow_code=foreign)
    if isinstance(found, type) and issubclass(found, TensorEnv):
        return _tensors(found, identity, options)
    return _gymnasium(found, options)


def _tensors(found: type[TensorEnv], identity: str, options: dict[str, Any]) -> TensorEnv:
    valid = set(inspect.signature(found).parameters)
    for option in options:
        if option not in valid:
            more = ": a TensorEnv draws its own tasks" if option == "vary" else f"; {nearest(option, valid)}"
            raise ConfigError(f"environment '{identity}' has no option '{option}'{more}")
    try:
        return found(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"environment '{identity}' with {options}: {error}") from error


def _gymnasium(env: Any, options: dict[str, Any]) -> TensorEnv:
    from mrt.control.envs.gymnasium import GymEnv, attributes_of, is_environment, registered

    if not isinstance(env, str) and not is_environment(env):
        raise ConfigError(f"tasks.env {env!r} is neither a gymnasium.Env nor a TensorEnv class")
    creator = registered(env) if isinstance(env, str) else env
    own = {key: value for key, value in options.items() if key in OWN}
    for key, value in own.items():
        least = 0 if key == "free_episodes" else 1
        if key != "vectorization" and (not isinstance(value, int) or value < least):
            raise ConfigError(f"tasks.{key}={value!r} must be an integer of at least {least}")
    fixed = {key: value for key, value in options.items() if key not in OWN and key != "vary"}
    vary = options.get("vary") or {}
    task = Variation(dict(sorted(vary.items())) if isinstance(vary, dict) else vary)
    for name in [*fixed, *task.values]:
        if name in TAKEN or (name in fixed and name in task.values):
            why = "is fixed and varied too" if name in fixed and name in task.values else "has another meaning here"
            raise ConfigError(f"parameter '{name}' of '{env}' {why}: leave it out, or give it to a class of your own")
    attributes = attributes_of(env, creator, {**fixed, **task([0.5] * task.draws)}, OWN)
    return GymEnv(env, task, task.draws, attributes=attributes, **own, **fixed)
