"""Wrappers of tensor environments: another scale of rewards, a shorter episode, less to see.

    NoisyObservation(ScaledReward(make_env("point-robot"), scale=0.1), deviation=0.05)

They nest. Tasks and their keys are those of the environment within; bounds that are known of it are not, for they need
not hold. A `GymEnv` takes Gymnasium's own wrappers instead, around the environments that it builds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from mrt.control.envs.bandits import normal
from mrt.control.envs.base import TensorEnv
from mrt.errors import ConfigError

W = TypeVar("W", bound="Wrapper")


class Wrapper(TensorEnv):
    """An environment around another one, which holds nothing of the trial itself: all of it is lent at each call.

    Raises:
        ConfigError: for an environment that is not on tensors.
    """

    def __init__(self, env: TensorEnv) -> None:
        if not env.on_tensors:
            raise ConfigError(
                f"'{env.name}' is a Gymnasium environment: build it within one of gymnasium.wrappers, as in "
                "GymEnv(lambda **task: TransformReward(gymnasium.make(id, **task), function))"
            )
        super().__init__(env.spec, env.device)
        self.env, self.name = env, env.name
        self.depth: int = getattr(env, "depth", 0) + 1
        self.task_draws, self.start_draws, self.step_draws = env.task_draws, env.start_draws, env.step_draws

    @property
    def inner(self) -> TensorEnv:
        """The environment within, where this one stands."""
        env = self.env
        env.params, env.state = self.params, self.state
        env.clock, env.episode, env.waiting = self.clock, self.episode, self.waiting
        return env

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        return self.env.task_params(u)

    def task_key(self, params: Mapping[str, Tensor], row: int) -> str:
        return self.env.task_key(params, row)

    def task_ranges(self) -> dict[str, tuple[float, float]]:
        return self.env.task_ranges()

    def mutation_draws(self, params: Mapping[str, Tensor]) -> int:
        return self.env.mutation_draws(params)

    def mutate(self, params: Mapping[str, Tensor], u: Tensor, size: float = 0.1) -> dict[str, Tensor]:
        return self.env.mutate(params, u, size)

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        return self.inner.begin_episode(u)

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        return self.inner.move(actions, u)

    def observe(self) -> Tensor:
        return self.inner.observe()

    def with_spec(self: W, **changed: Any) -> W:
        """As everywhere. A shorter episode is this wrapper's, so that what is seen of the time stays as it is."""
        other = super().with_spec(**changed)
        other.env = self.env.with_spec(**{name: value for name, value in changed.items() if name != "episode_steps"})
        return other

    def to(self: W, device: str | torch.device) -> W:
        other = super().to(device)
        if other is not self:
            other.env = self.env.to(device)
        return other


class ScaledReward(Wrapper):
    """scale * reward + shift."""

    def __init__(self, env: TensorEnv, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__(env)
        self.scale, self.shift = scale, shift

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        state, reward, terminated = super().move(actions, u)
        return state, self.scale * reward + self.shift, terminated


class ShorterEpisodes(Wrapper):
    """Episodes of at most `steps` steps."""

    def __init__(self, env: TensorEnv, steps: int) -> None:
        if not 1 <= steps <= env.spec.episode_steps:
            raise ConfigError(f"steps={steps} must be from 1 to the {env.spec.episode_steps} of '{env.name}'")
        super().__init__(env)
        self.spec = replace(env.spec, episode_steps=steps)


class ObservationSubset(Wrapper):
    """Some columns of the observation, in this order."""

    def __init__(self, env: TensorEnv, columns: Sequence[int]) -> None:
        if not columns or not all(0 <= column < env.spec.observation for column in columns):
            raise ConfigError(f"columns={list(columns)} must be some of 0 to {env.spec.observation - 1}")
        super().__init__(env)
        self.columns, self.spec = list(columns), replace(env.spec, observation=len(columns))

    def observe(self) -> Tensor:
        return super().observe()[:, self.columns]


class NoisyObservation(Wrapper):
    """Gaussian noise on every number that is seen, drawn in each step."""

    def __init__(self, env: TensorEnv, deviation: float) -> None:
        if deviation < 0:
            raise ConfigError(f"deviation={deviation} must be at least 0")
        super().__init__(env)
        self.deviation, self.width, self.key = deviation, env.spec.observation, f"noise_{self.depth}"
        self.start_draws, self.step_draws = env.start_draws + self.width, env.step_draws + self.width

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        return {**super().begin_episode(u[:, self.width :]), self.key: self._noise(u)}

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        state, reward, terminated = super().move(actions, u[:, self.width :])
        return {**state, self.key: self._noise(u)}, reward, terminated

    def observe(self) -> Tensor:
        return super().observe() + self.state[self.key]

    def _noise(self, u: Tensor) -> Tensor:
        return self.deviation * normal(u[:, : self.width])
