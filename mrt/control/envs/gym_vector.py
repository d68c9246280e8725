"""Tensor environments as a Gymnasium `VectorEnv`, for agents that are written against that."""

from __future__ import annotations

import copy
import operator
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from mrt.control.envs.base import EnvTasks
from mrt.errors import ConfigError

SEEDS = 2**31 - 1


class TensorVectorEnv(VectorEnv):
    """`count` trials of a task distribution as a Gymnasium `VectorEnv`, NEXT_STEP autoreset.

    An episode's end is Gymnasium's terminated or truncated; behind the last one of a trial a new task begins.
    `info["trial_over"]` (count,) says where a memory has to be cleared, `info["trial_episode"]` which episode of its
    trial a row is in. Actions are those of the tensor environment: numbers from 0, or boxes in [-1, 1]^A.

    Args:
        tasks: p(M); tasks are drawn in the order of their indices, from `reset`'s seed or a random one.
        whole_trials: only the end of a trial counts as one: episodes within it are the agent's business, as in RL2.

    Raises:
        ConfigError: for tasks that are Gymnasium environments themselves.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(self, tasks: EnvTasks, count: int, whole_trials: bool = False) -> None:
        if not tasks.env.on_tensors:
            raise ConfigError(f"'{tasks.name}' is a Gymnasium environment already: gymnasium.make_vec steps several")
        self.tasks, self.env, self.num_envs, self.whole_trials = tasks, tasks.env.clone(), count, whole_trials
        spec = self.env.spec
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (spec.observation,), np.float32)
        if spec.actions:
            self.single_action_space: Any = spaces.Discrete(spec.actions)
        else:
            self.single_action_space = spaces.Box(-1.0, 1.0, (spec.action_size,), np.float32)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, count)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, count)
        self.seed: int | None = None
        self.next, self.over = 0, torch.zeros(count, dtype=torch.bool)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """New trials; without a seed the tasks go on where they were."""
        if seed is not None:
            self.seed, self.next = operator.index(seed), 0
        elif self.seed is None:
            self.seed = int(self.np_random.integers(SEEDS))
        params = self._draw(self.num_envs)
        observation = self.env.reset(params, self._noise_seed())
        self.over = torch.zeros(self.num_envs, dtype=torch.bool)
        return observation.cpu().numpy(), self._info()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Rows that have ended begin again, their action is ignored and pays nothing: an episode, or a new trial."""
        again = self.over
        step = self.env.step(torch.as_tensor(np.asarray(actions)))
        if bool(again.any()):
            self._begin_trials(torch.nonzero(again)[:, 0])
        self.over = step.trial_over.cpu() & ~again
        reward = torch.where(again, 0.0, step.reward.cpu())
        terminated, truncated = (flag.cpu() & ~again for flag in (step.terminated, step.truncated))
        if self.whole_trials:
            terminated, truncated = terminated & self.over, truncated & self.over
        observation = self.env.observe().cpu().numpy()
        return observation, reward.numpy(), terminated.numpy(), truncated.numpy(), self._info()

    def _draw(self, count: int) -> dict[str, Tensor]:
        indices = range(self.next, self.next + count)
        self.next += count
        return self.tasks.batch(self.seed or 0, indices)

    def _noise_seed(self) -> int:
        return ((self.seed or 0) * 1_000_003 + self.next) % SEEDS

    def _begin_trials(self, rows: Tensor) -> None:
        """New tasks for some rows; the others are left as they are."""
        env, new = self.env, copy.copy(self.env)
        new.generator = torch.Generator(env.device)
        new.reset(self._draw(len(rows)), self._noise_seed())
        for mine, theirs in ((env.params, new.params), (env.state, new.state)):
            for key, value in theirs.items():
                mine[key] = mine[key].index_copy(0, rows.to(value.device), value)
        for name in ("clock", "episode", "waiting"):
            value = getattr(new, name)
            setattr(env, name, getattr(env, name).index_copy(0, rows.to(value.device), value))

    def _info(self) -> dict[str, Any]:
        return _Info({"trial_over": self.over.numpy().copy(), "trial_episode": self.env.episode.cpu().numpy().copy()})


class _Info(dict[str, Any]):
    """`info["episode"]` still reads as it did; the key itself is Gymnasium's, for what an episode returned."""

    def __missing__(self, key: str) -> Any:
        if key == "episode":
            return self["trial_episode"]
        raise KeyError(key)
