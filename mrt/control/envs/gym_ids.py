"""Registered Gymnasium environments: what stands behind an id, and which parameters its constructor takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from mrt.control.envs.gym_slots import Assignment, assigned
from mrt.errors import ConfigError, nearest


def maker(identity: str) -> Callable[..., Any]:
    """From constructor arguments to a registered environment, without Gymnasium's checker around it."""

    def make(**arguments: Any) -> Any:
        return gymnasium.make(identity, disable_env_checker=True, **arguments)

    return make


def registered(identity: str) -> Callable[..., Any]:
    """The constructor behind a registered id.

    Raises:
        ConfigError: for an id that is not registered, with the nearest one, or whose package is missing.
    """
    try:
        entry = gymnasium.spec(identity).entry_point
        return entry if callable(entry) else load_env_creator(str(entry))
    except gymnasium.error.UnregisteredEnv as error:
        near = nearest(identity, set(gymnasium.registry))
        raise ConfigError(f"Gymnasium has no environment '{identity}'; {near} ({error})") from error
    except (ImportError, AttributeError, gymnasium.error.Error) as error:
        raise ConfigError(f"environment '{identity}' cannot be loaded: {error}") from error


def attributes_of(
    env: str | Callable[..., Any], creator: Callable[..., Any], chosen: Mapping[str, Any], own: Collection[str]
) -> set[str]:
    """Which of the `chosen` parameters are attributes, because the constructor does not take them.

    Raises:
        ConfigError: for one that is neither an argument nor an attribute; `own` are further valid names to show.
    """
    takes = inspect.signature(creator).parameters
    left = [name for name in chosen if name not in takes]
    if not left:
        return set()
    arguments = {name: value for name, value in chosen.items() if name in takes}
    make, name = (env, getattr(env, "__name__", "")) if callable(env) else (maker(env), env)
    bare = assigned(make, name, Assignment(arguments, {}))
    has = {key for key in dir(bare.unwrapped) if key[0] != "_" and not callable(getattr(bare.unwrapped, key, None))}
    bare.close()
    anything = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in takes.values())
    for one in left:
        if one not in has and not anything:
            valid = (set(takes) | has | set(own)) - {"self"} - set(dir(gymnasium.Env))
            raise ConfigError(f"environment '{name}' takes no '{one}'; {nearest(one, valid)}")
    return {one for one in left if one in has}


def is_environment(value: Any) -> bool:
    """Whether it is a Gymnasium environment class."""
    return isinstance(value, type) and issubclass(value, gymnasium.Env)
