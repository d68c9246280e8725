"""Environments on tensors: thousands of tasks step at once, on the CPU or a GPU. No Gymnasium is needed to run one.

A trial is H episodes of one task. Two things end: an episode (the position is reset, the task and whoever remembers it
stay) and the trial (the memory is cleared). Conventions at the border are those of Gymnasium's `VectorEnv` with
NEXT_STEP autoreset: the step that ends an episode returns its last observation, and the next call of `step` ignores
the action of such a row, returns the first observation of its next episode and reward 0.

Everything random is a uniform number that is passed in or drawn here: `task_draws` numbers make a task, `start_draws`
the start of an episode, `step_draws` a step. So a plain-Python reference can be stepped beside an environment on the
same numbers, and a task depends on (seed, index) alone, whatever the batch it is played in.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from mrt.errors import ConfigError
from mrt.tasks import Task, split_of
from mrt.training.codec import tree_to

SPLITS = {"train": 0.8, "test": 0.2}
ATTEMPTS = 1000  # draws for a task of the split that is asked for; small task sets have few of some splits
E = TypeVar("E", bound="TensorEnv")
D = TypeVar("D", bound="EnvTasks")


@dataclass(frozen=True)
class Spec:
    """What a policy has to know of an environment, and how long a trial is.

    `actions` counts discrete actions; 0 means `action_size` continuous ones in [-1, 1]. `free_episodes` is K: the
    first K episodes explore for free, their rewards are not part of what is maximised.
    """

    observation: int
    episode_steps: int
    episodes: int
    actions: int = 0
    action_size: int = 0
    free_episodes: int = 0

    @property
    def trial_steps(self) -> int:
        """Most environment steps in a trial, without the closing rows."""
        return self.episode_steps * self.episodes


class Step(NamedTuple):
    """What `step` returns, each (B, ...). `fresh` rows have just begun an episode: their action was ignored.

    `terminated`: the episode ended by itself; `truncated`: by the time limit; `trial_over`: it was the last one.
    """

    observation: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    fresh: Tensor
    trial_over: Tensor


class TensorEnv(ABC):
    """B tasks of one kind. A subclass gives `task_params`, `begin_episode`, `move` and `observe`.

    It keeps what a task is in `self.params` and where it stands in `self.state`, both {name: (B, ...)}; nothing else,
    so that `clone` and `select` are the same for all.
    """

    name = ""
    task_draws = 1
    start_draws = 0
    step_draws = 0

    def __init__(self, spec: Spec, device: str | torch.device = "cpu") -> None:
        self.spec, self.device = spec, torch.device(device)
        self.params: dict[str, Tensor] = {}
        self.state: dict[str, Tensor] = {}
        self.clock = self.episode = torch.zeros(0, dtype=torch.long, device=self.device)
        self.waiting = torch.zeros(0, dtype=torch.bool, device=self.device)
        self.generator = _generator(self.device)

    # What an environment defines.

    @abstractmethod
    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        """The tasks that the uniform numbers u (B, task_draws) stand for, {name: (B, ...)}."""

    @abstractmethod
    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        """The state at the start of an episode, for all B rows; u (B, start_draws)."""

    @abstractmethod
    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """One step of all rows: (next state, reward (B,), terminated (B,) bool); u (B, step_draws)."""

    @abstractmethod
    def observe(self) -> Tensor:
        """(B, observation) float32 of the present state. Nothing that a policy may not know."""

    def task_key(self, params: Mapping[str, Tensor], row: int) -> str:
        """The canonical key of one task: equal tasks have equal keys."""
        parts = [f"{name}={_text(value[row])}" for name, value in sorted(params.items())]
        return f"{self.name}:{';'.join(parts)}"

    def task_keys(self, params: Mapping[str, Tensor], rows: int, written: int, each: int = 1) -> tuple[str, ...]:
        """A key for every one of `rows` rows, of which each task of `params` has `each`: those of the first `written`.

        The others are empty: a key takes longer to write than a trial to play.
        """
        keys = [self.task_key(params, row // each) for row in range(min(written, rows))]
        return (*keys, *[""] * (rows - len(keys)))

    # The trial.

    def reset(self, params: Mapping[str, Tensor], seed: int = 0, noise: Tensor | None = None) -> Tensor:
        """Begins a trial in each of these tasks and returns the first observations (B, observation).

        `seed` is that of the noise to come; `noise` (B, start_draws) replaces the numbers of the first start.
        """
        self.params = {name: value.to(self.device) for name, value in params.items()}
        self.generator.manual_seed(seed)
        rows = len(next(iter(self.params.values())))
        self.clock = torch.zeros(rows, dtype=torch.long, device=self.device)
        self.episode = torch.zeros_like(self.clock)
        self.waiting = torch.zeros(rows, dtype=torch.bool, device=self.device)
        self.state = self.begin_episode(self._draw(noise, rows, self.start_draws))
        return self.observe()

    def step(self, actions: Tensor, noise: Tensor | None = None) -> Step:
        """One step of all rows; `noise` (B, max(step_draws, start_draws)) replaces the numbers drawn here.

        Rows whose trial is over go on stepping, and may go on paying: whoever collects masks them.
        """
        rows = len(self.clock)
        u = self._draw(noise, rows, max(self.step_draws, self.start_draws))
        fresh = self.waiting
        moved, reward, terminated = self.move(actions.to(self.device), u[:, : self.step_draws])
        begun = self.begin_episode(u[:, : self.start_draws]) if bool(fresh.any()) else moved
        self.state = {name: _where(fresh, begun[name], moved[name]) for name in moved}
        self.clock = torch.where(fresh, 0, self.clock + 1)
        self.episode = self.episode + fresh
        terminated = terminated & ~fresh
        truncated = (self.clock >= self.spec.episode_steps) & ~terminated & ~fresh
        over = (terminated | truncated) & (self.episode >= self.spec.episodes - 1)
        self.waiting = (terminated | truncated) & ~over
        return Step(self.observe(), torch.where(fresh, 0.0, reward), terminated, truncated, fresh, over)

    def clone(self: E) -> E:
        """An independent copy that goes on from here, on the same random numbers."""
        other = copy.copy(self)
        other.params = {name: value.clone() for name, value in self.params.items()}
        other.state = {name: value.clone() for name, value in self.state.items()}
        other.clock, other.episode, other.waiting = self.clock.clone(), self.episode.clone(), self.waiting.clone()
        other.generator = _generator(self.device)
        other.generator.set_state(self.generator.get_state())
        return other

    def select(self: E, rows: Tensor) -> E:
        """A copy of some rows only: int64 indices (repeats make branches of one state) or a bool mask."""
        other = self.clone()
        other.params = {name: value[rows] for name, value in other.params.items()}
        other.state = {name: value[rows] for name, value in other.state.items()}
        other.clock, other.episode, other.waiting = other.clock[rows], other.episode[rows], other.waiting[rows]
        return other

    def with_spec(self: E, **changed: Any) -> E:
        """The same environment with another number of episodes, say, before a reset."""
        other = copy.copy(self)
        other.spec = replace(self.spec, **changed)
        return other

    def to(self: E, device: str | torch.device) -> E:
        """A copy whose every tensor lies on `device`, or the environment itself where it is there already.

        Its random numbers are those of a new generator: a trial that is under way goes on with other noise.
        """
        device = torch.device(device)
        if device == self.device:
            return self
        other = copy.copy(self)
        vars(other).update(tree_to(vars(self), device))
        other.device, other.generator = device, _generator(device)
        return other

    def _draw(self, given: Tensor | None, rows: int, width: int) -> Tensor:
        if given is not None:
            return given.to(self.device)
        return torch.rand(rows, width, generator=self.generator, device=self.device)


@dataclass(frozen=True)
class EnvTasks:
    """p(M) of an environment, a pure function of (seed, index). With a `split` tasks are redrawn until they are in it.

    Raises:
        ConfigError: for a split that is none, or one that holds next to no task.
    """

    env: TensorEnv
    split: str | None = None

    @property
    def name(self) -> str:
        return self.env.name

    def __post_init__(self) -> None:
        if self.split is not None and self.split not in SPLITS:
            raise ConfigError(f"split={self.split!r} is none of {sorted(SPLITS)} (or leave it out)")

    def sample(self, seed: int, index: int) -> Task:
        """Task `index` of `seed`."""
        params = self.batch(seed, [index])
        return Task(self.env.task_key(params, 0), {name: value[0] for name, value in params.items()})

    def batch(self, seed: int, indices: Sequence[int]) -> dict[str, Tensor]:
        """The parameters of many tasks, {name: (B, ...)} on the environment's device: row i is the task (seed,
        indices[i]). They are drawn on the CPU, so that they are the same on every device.
        """
        return {name: value.to(self.env.device) for name, value in self._drawn(seed, indices).items()}

    def to(self: D, device: str | torch.device) -> D:
        """The same tasks of an environment on `device`."""
        env = self.env.to(device)
        return self if env is self.env else replace(self, env=env)

    def _drawn(self, seed: int, indices: Sequence[int]) -> dict[str, Tensor]:
        index = np.asarray(indices, dtype=np.uint64)
        params = self.env.task_params(uniforms(seed, index, self.env.task_draws))
        if self.split is None:
            return params
        missing = np.array([i for i in range(len(index)) if not self._inside(params, i)], dtype=np.int64)
        for attempt in range(1, ATTEMPTS):
            if not len(missing):
                return params
            again = self.env.task_params(uniforms(seed, index[missing], self.env.task_draws, attempt))
            for name, value in again.items():
                params[name][torch.from_numpy(missing)] = value
            missing = np.array([i for i in missing if not self._inside(params, int(i))], dtype=np.int64)
        raise ConfigError(f"{ATTEMPTS} draws found no task of {self.name} in split '{self.split}'")

    def _inside(self, params: Mapping[str, Tensor], row: int) -> bool:
        return split_of(self.env.task_key(params, row), SPLITS) == self.split


def uniforms(seed: int, indices: np.ndarray, width: int, attempt: int = 0) -> Tensor:
    """(B, width) float32 numbers in [0, 1), each a hash of (seed, index, attempt, column): splitmix64, Steele 2014."""
    with np.errstate(over="ignore"):
        base = _mix(np.uint64(seed % 2**64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(attempt))
        rows = _mix(np.asarray(indices, dtype=np.uint64) ^ base)
        cells = _mix(rows[:, None] + np.arange(1, width + 1, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03))
    return torch.from_numpy(((cells >> np.uint64(40)).astype(np.float64) / 2**24).astype(np.float32))


def _mix(x: Any) -> Any:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _generator(device: torch.device) -> torch.Generator:
    return torch.Generator("cpu" if device.type == "meta" else device)  # nothing is drawn on meta


def _where(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(rows.view(-1, *[1] * (no.ndim - 1)), yes, no)


def _text(value: Tensor) -> str:
    numbers = value.flatten().tolist()
    return ",".join(f"{number:.9g}" if isinstance(number, float) else str(int(number)) for number in numbers)
