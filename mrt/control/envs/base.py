"""Environments on tensors: thousands of tasks step at once, on the CPU or a GPU. No Gymnasium is needed to run one.

A trial is H episodes of one task. Two things end: an episode (the position is reset, the task and the memory of it
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from mrt.control.envs.draws import reflected
from mrt.control.envs.spec import Spec, Step
from mrt.errors import ConfigError
from mrt.tasks import Task, split_of, uniforms
from mrt.training.codec import tree_to

SPLITS = {"train": 0.8, "test": 0.2}
ATTEMPTS = 1000  # draws for a task of the split that is asked for; small task sets have few of some splits
MUTATIONS = 1 << 40  # changes of tasks are drawn from other numbers
E = TypeVar("E", bound="TensorEnv")
D = TypeVar("D", bound="EnvTasks")


class TensorEnv(ABC):
    """B tasks of one kind. A subclass gives `task_params`, `begin_episode`, `move` and `observe`.

    It keeps what a task is in `self.params` and where it is in `self.state`, both {name: (B, ...)}; nothing else,
    so that `clone` and `select` are the same for all.
    """

    name = ""
    task_draws = 1
    start_draws = 0
    step_draws = 0
    on_tensors = True  # False where environments of another kind are stepped behind it

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

    def task_ranges(self) -> dict[str, tuple[float, float]]:
        """{parameter: (lowest, highest)} of what a task may be a little different in; none where tasks are discrete."""
        return {}

    def mutation_draws(self, params: Mapping[str, Tensor]) -> int:
        """Uniform numbers that `mutate` takes a task."""
        return sum(params[name][0].numel() for name in self.task_ranges())

    def mutate(self, params: Mapping[str, Tensor], u: Tensor, size: float = 0.1) -> dict[str, Tensor]:
        """Tasks a little different from `params`, as POET changes its environments (Wang et al. 2019, 1901.01753).

        Every parameter of `task_ranges` moves by up to `size` of its range, reflected at the ends; u (B,
        mutation_draws) uniform numbers.

        Raises:
            ConfigError: where tasks have no continuous parameters.
        """
        if not self.task_ranges():
            raise ConfigError(f"tasks of '{self.name}' have no continuous parameters, so none can change a little")
        moved, at = dict(params), 0
        for name, (low, high) in self.task_ranges().items():
            width = params[name][0].numel()
            by = (2 * u[:, at : at + width] - 1).view_as(params[name])
            moved[name], at = reflected(params[name] + size * (high - low) * by, low, high), at + width
        return moved

    # The trial.

    def reset(self, params: Mapping[str, Tensor], seed: int = 0, noise: Tensor | None = None) -> Tensor:
        """Begins a trial in each of these tasks and returns the first observations (B, observation).

        `seed` is that of the noise to come; `noise` (B, start_draws) replaces the numbers of the first start.
        """
        self.params = {name: value.to(self.device) for name, value in params.items()}
        self.generator.manual_seed(int(seed))
        rows = len(next(iter(self.params.values())))
        self.clock = torch.zeros(rows, dtype=torch.long, device=self.device)
        self.episode = torch.zeros_like(self.clock)
        self.waiting = torch.zeros(rows, dtype=torch.bool, device=self.device)
        self.state = self.begin_episode(self._draw(noise, rows, self.start_draws))
        return self.observe()

    def step(self, actions: Tensor, noise: Tensor | None = None) -> Step:
        """One step of all rows; `noise` (B, max(step_draws, start_draws)) replaces the numbers drawn here.

        Rows whose trial is over go on stepping, and may go on paying: the caller masks them.
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
        other.generator = self._same_generator()
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
        other.spec, other.generator = replace(self.spec, **changed), self._same_generator()
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

    def _same_generator(self) -> torch.Generator:
        other = _generator(self.device)
        other.set_state(self.generator.get_state())
        return other

    def _draw(self, given: Tensor | None, rows: int, width: int) -> Tensor:
        if given is not None:
            return given.to(self.device)
        return torch.rand(rows, width, generator=self.generator, device=self.device)


@dataclass(frozen=True)
class EnvTasks:
    """p(M) of an environment, a pure function of (seed, index). With a `split` tasks are redrawn until they are in it.

    Raises:
        ConfigError: for an unknown split, or one that holds almost no task.
    """

    env: TensorEnv
    split: str | None = None

    @property
    def name(self) -> str:
        return self.env.name

    def __post_init__(self) -> None:
        if self.split is not None and self.split not in SPLITS:
            raise ConfigError(f"split={self.split!r} must be one of {sorted(SPLITS)}, or left out")

    def sample(self, seed: int, index: int) -> Task:
        """Task `index` of `seed`."""
        params = self.batch(seed, [index])
        return Task(self.env.task_key(params, 0), {name: value[0] for name, value in params.items()})

    def batch(self, seed: int, indices: Sequence[int]) -> dict[str, Tensor]:
        """The parameters of many tasks, {name: (B, ...)} on the environment's device: row i is the task (seed,
        indices[i]). They are drawn on the CPU, so that they are the same on every device.
        """
        return {name: value.to(self.env.device) for name, value in self._drawn(seed, indices).items()}

    def mutate(
        self, params: Mapping[str, Tensor], seed: int, indices: Sequence[int], size: float = 0.1
    ) -> dict[str, Tensor]:
        """Tasks a little different from `params` {name: (B, ...)}, of the same split; row i is a pure function of
        params[i] and (seed, indices[i]). See `TensorEnv.mutate`.
        """
        index, old = np.asarray(indices, dtype=np.uint64), {name: value.cpu() for name, value in params.items()}
        width = self.env.mutation_draws(old)

        def draw(rows: Any, attempt: int) -> dict[str, Tensor]:
            u = uniforms(seed, index[rows], width, MUTATIONS + attempt)
            return self.env.mutate({name: value[torch.from_numpy(rows)] for name, value in old.items()}, u, size)

        return {name: value.to(self.env.device) for name, value in self._of_split(len(index), draw).items()}

    def to(self: D, device: str | torch.device) -> D:
        """The same tasks of an environment on `device`."""
        env = self.env.to(device)
        return self if env is self.env else replace(self, env=env)

    def _drawn(self, seed: int, indices: Sequence[int]) -> dict[str, Tensor]:
        index, width = np.asarray(indices, dtype=np.uint64), self.env.task_draws
        return self._of_split(
            len(index), lambda rows, attempt: self.env.task_params(uniforms(seed, index[rows], width, attempt))
        )

    def _of_split(self, count: int, draw: Callable[[Any, int], dict[str, Tensor]]) -> dict[str, Tensor]:
        """`count` tasks of the split: `draw(rows, attempt)` draws some rows, again until they are in it."""
        params = draw(np.arange(count), 0)
        if self.split is None:
            return params
        missing = np.array([i for i in range(count) if not self._inside(params, i)], dtype=np.int64)
        for attempt in range(1, ATTEMPTS):
            if not len(missing):
                return params
            for name, value in draw(missing, attempt).items():
                params[name][torch.from_numpy(missing)] = value
            missing = np.array([i for i in missing if not self._inside(params, int(i))], dtype=np.int64)
        raise ConfigError(f"{ATTEMPTS} draws found no task of {self.name} in split '{self.split}'")

    def _inside(self, params: Mapping[str, Tensor], row: int) -> bool:
        return split_of(self.env.task_key(params, row), SPLITS) == self.split


def _generator(device: torch.device) -> torch.Generator:
    return torch.Generator("cpu" if device.type == "meta" else device)  # nothing is drawn on meta


def _where(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(rows.view(-1, *[1] * (no.ndim - 1)), yes, no)


def number_text(value: Any) -> str:
    """How a parameter is written in a task's key: nine digits of a float, numbers of a list one after the other."""
    if isinstance(value, list | tuple):
        return ",".join(number_text(one) for one in value)
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _text(value: Tensor) -> str:
    numbers = value.flatten().tolist()
    return number_text([number if isinstance(number, float) else int(number) for number in numbers])
