"""Gymnasium environments that live on from trial to trial, stepped together in a vector environment.

`Slot` is one place of a `SyncVectorEnv` or `AsyncVectorEnv`. It keeps the environment that it holds and gives it the
next task: attributes are set, and only a change of constructor arguments rebuilds it. `Pool` lends whole vector
environments to `GymEnv` and its copies.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from mrt.errors import ConfigError

STEP, BEGIN, STAY = 0, 1, 2  # commands to a slot, beside the action
KEPT = 2  # vector environments of other sizes that wait for a trial
CONSTRUCTION = (TypeError, ValueError, AttributeError, ImportError, gymnasium.error.Error)


@dataclass(frozen=True)
class Kind:
    """What all environments of a `GymEnv` have in common.

    Args:
        build: from constructor arguments to an environment.
        width: numbers of a flattened observation.
    """

    name: str
    build: Callable[..., Any]
    action_space: Any
    width: int

    @property
    def observed(self) -> Any:
        """The space of flattened observations."""
        return spaces.Box(-np.inf, np.inf, (self.width,), np.float32)


@dataclass(frozen=True)
class Assignment:
    """One task: arguments of the constructor, and attributes that are set on the unwrapped environment."""

    arguments: dict[str, Any]
    attributes: dict[str, Any]


def assigned(build: Callable[..., Any], name: str, task: Assignment) -> Any:
    """A new environment with a task.

    Raises:
        ConfigError: for arguments that its constructor refuses, or a package that it lacks.
    """
    try:
        env = build(**task.arguments)
    except CONSTRUCTION as error:
        raise ConfigError(f"environment '{name}' with {task.arguments}: {error}") from error
    for attribute, value in task.attributes.items():
        setattr(env.unwrapped, attribute, value)
    return env


class Slot(gymnasium.Env):
    """One place of a vector environment. An action is (the environment's own, STEP | BEGIN | STAY).

    BEGIN resets without a seed and STAY does nothing: both pay 0. Observations are flat float32 vectors.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.env: Any = None
        self.task_now: Assignment | None = None
        self.observation_space, self.last = kind.observed, np.zeros(kind.width, np.float32)
        self.action_space = spaces.Tuple((kind.action_space, spaces.Discrete(3)))

    @property
    def task(self) -> Assignment | None:
        """The task that the environment has now; setting it prepares the environment, which is then to be reset."""
        return self.task_now

    @task.setter
    def task(self, task: Assignment) -> None:
        if self.env is None or self.task_now is None or not _equal(task.arguments, self.task_now.arguments):
            self.close()
            self.env = assigned(self.kind.build, self.kind.name, task)
            self._check(task)
        else:
            for name, value in task.attributes.items():
                setattr(self.env.unwrapped, name, value)
        self.task_now = task

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode of the task."""
        self.last = self._flat(self.env.reset(seed=seed)[0])
        return self.last, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step of the environment, or another command instead. Infos are dropped: nothing reads them."""
        own, command = action
        if command == STAY:
            return self.last, 0.0, False, False, {}
        if command == BEGIN:
            return self.reset()[0], 0.0, False, False, {}
        observation, reward, terminated, truncated, _ = self.env.step(own)
        self.last = self._flat(observation)
        return self.last, float(reward), bool(terminated), bool(truncated), {}

    def close(self) -> None:
        """Closes the environment that it holds."""
        if self.env is not None:
            self.env.close()
        self.env = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Slot:
        other = Slot(self.kind)
        other.env, other.task_now, other.last = copy.deepcopy(self.env, memo), self.task_now, self.last.copy()
        return other

    def _flat(self, observation: Any) -> Any:
        space = self.env.observation_space
        flat = observation if isinstance(space, spaces.Box) else spaces.flatten(space, observation)
        return np.array(flat, dtype=np.float32).reshape(-1)

    def _check(self, task: Assignment) -> None:
        seen, acted = self.env.observation_space, self.env.action_space
        if spaces.flatdim(seen) != self.kind.width or acted != self.kind.action_space:
            raise ConfigError(
                f"the task {task.arguments} of '{self.kind.name}' has spaces of its own ({seen}, {acted}), where the "
                f"others have observations of {self.kind.width} numbers and {self.kind.action_space}: one policy "
                "cannot play both. Leave out the parameter that changes them, or wrap the environment"
            )


class Lease:
    """A vector environment while somebody plays in it. `holders`: the copies of a `GymEnv` that share its trial."""

    def __init__(self, pool: Pool, vector: VectorEnv) -> None:
        self.vector, self.holders = vector, weakref.WeakSet[Any]()
        self._returns = weakref.finalize(self, pool.put, vector)
        self._returns.atexit = False

    def discard(self) -> None:
        """Closes the vector environment instead of giving it back."""
        if self._returns.detach() is not None:
            _closed(self.vector)


class Pool:
    """Vector environments of one kind; who needs one is lent an idle one of the right size, or a new one."""

    def __init__(self, kind: Kind, asynchronous: bool) -> None:
        self.kind, self.asynchronous = kind, asynchronous
        self.idle: list[VectorEnv] = []

    def take(self, rows: int) -> Lease:
        """`rows` environments."""
        for i, vector in enumerate(self.idle):
            if vector.num_envs == rows:
                return Lease(self, self.idle.pop(i))
        return Lease(self, self._made([partial(Slot, self.kind)] * rows))

    def copied(self, lease: Lease, rows: list[int]) -> Lease:
        """Copies of some of the environments, by index, where they stand; not of those in other processes."""
        slots = [copy.deepcopy(lease.vector.envs[i]) for i in rows]  # type: ignore[attr-defined]
        return Lease(self, self._made([partial(_same, slot) for slot in slots]))

    def put(self, vector: VectorEnv) -> None:
        """What nobody plays in any more."""
        self.idle.append(vector)
        while len(self.idle) > KEPT:
            _closed(self.idle.pop(0))

    def close(self) -> None:
        """Closes what is idle."""
        while self.idle:
            _closed(self.idle.pop())

    def _made(self, builders: list[Callable[[], Slot]]) -> VectorEnv:
        if self.asynchronous:
            return AsyncVectorEnv(builders, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)
        return SyncVectorEnv(builders, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)


def _closed(vector: VectorEnv) -> None:
    """Closes it; processes that an error has ended are not waited for."""
    vector.close(**({"terminate": True} if isinstance(vector, AsyncVectorEnv) else {}))


def _same(slot: Slot) -> Slot:
    return slot


def _equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    try:
        return bool(one == other)
    except ValueError:  # arrays
        return False
