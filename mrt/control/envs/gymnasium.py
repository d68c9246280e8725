"""The border to Gymnasium, both ways (extra `[control]`).

`GymEnv`: any Gymnasium environment as a task distribution, on which rollout, trainer and evaluation run as on tensors:

    GymEnv("Pendulum-v1", task=lambda u: {"g": 5 + 10 * u[0]}, episodes=3)

`TensorVectorEnv`: a tensor environment as a Gymnasium `VectorEnv` with NEXT_STEP autoreset, for whoever has an agent
written against that.

A `GymEnv` steps one Python environment after the other: it is as slow as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrt.control.envs.base import EnvTasks, Spec, Step, TensorEnv
from mrt.errors import ConfigError
from mrt.training.codec import tree_to

try:
    import gymnasium
    from gymnasium import spaces
    from gymnasium.vector import AutoresetMode, VectorEnv
except ImportError as error:
    raise ConfigError('this needs Gymnasium, which is not installed: pip install "mrt[control]"') from error

SEEDS = 2**31 - 1


def _width(space: Any) -> int:
    if not space.is_np_flattenable:
        raise ConfigError(f"observations of {space} cannot be made one vector: wrap the environment")
    return int(spaces.flatdim(space))


class GymEnv(TensorEnv):
    """B Gymnasium environments of one kind, each built for its own task.

    Observations are flattened (`gymnasium.spaces.flatten`: discrete ones become one-hot). Discrete actions are numbers
    from 0; box actions are in [-1, 1]^A and are scaled to the box. What an episode is, is the environment's business;
    `episode_steps` cuts it as a time limit. `clone` and `select` copy the environments (`copy.deepcopy`).

    Args:
        env: an id for `gymnasium.make`, or a function from keyword arguments to an environment.
        task: from uniform numbers in [0, 1), a list of `task_draws` floats, to the keyword arguments of one task.
        episode_steps: the time limit of the environment's own registration when left out.
        fixed: keyword arguments of all tasks.

    Raises:
        ConfigError: without a time limit, or for spaces that have no vector form.
    """

    def __init__(
        self,
        env: str | Callable[..., Any],
        task: Callable[[list[float]], Mapping[str, Any]] = lambda u: {},
        task_draws: int = 1,
        episodes: int = 1,
        episode_steps: int | None = None,
        free_episodes: int = 0,
        name: str = "",
        **fixed: Any,
    ) -> None:
        self.make = env if callable(env) else lambda **kwargs: gymnasium.make(env, disable_env_checker=True, **kwargs)
        self.task, self.task_draws, self.fixed = task, task_draws, fixed
        probe = self._build([0.5] * task_draws)
        self.name = name or (env if isinstance(env, str) else getattr(env, "__name__", "gymnasium"))
        self.observation_space, self.action_space = probe.observation_space, probe.action_space
        steps = episode_steps or getattr(probe.spec, "max_episode_steps", None)
        if not steps:
            raise ConfigError(f"{self.name} has no time limit of its own: give episode_steps")
        discrete = isinstance(self.action_space, spaces.Discrete)
        if not discrete and not isinstance(self.action_space, spaces.Box):
            raise ConfigError(f"actions of {self.action_space} are neither discrete nor a box: wrap the environment")
        shape = {"actions": int(self.action_space.n)} if discrete else {"action_size": _width(self.action_space)}
        spec = Spec(_width(self.observation_space), int(steps), episodes, free_episodes=free_episodes, **shape)
        probe.close()
        super().__init__(spec)
        self.envs: list[Any] = []

    def _build(self, u: list[float]) -> Any:
        return self.make(**self.fixed, **self.task(u))

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        """The uniform numbers themselves: `task` makes keyword arguments of them."""
        return {"u": u}

    def task_key(self, params: Mapping[str, Tensor], row: int) -> str:
        kwargs = self.task(params["u"][row].tolist())
        return f"{self.name}:{';'.join(f'{key}={value}' for key, value in sorted(kwargs.items()))}"

    def reset(self, params: Mapping[str, Tensor], seed: int = 0, noise: Tensor | None = None) -> Tensor:
        self.close()
        self.params = {key: value.to(self.device) for key, value in params.items()}
        self.generator.manual_seed(seed)
        self.envs = [self._build(u) for u in self.params["u"].tolist()]
        rows = len(self.envs)
        self.clock = torch.zeros(rows, dtype=torch.long, device=self.device)
        self.episode, self.waiting = torch.zeros_like(self.clock), torch.zeros_like(self.clock, dtype=torch.bool)
        seeds = torch.randint(SEEDS, (rows,), generator=self.generator, device=self.device).tolist()
        seen = [self._flat(env.reset(seed=one)[0]) for env, one in zip(self.envs, seeds, strict=True)]
        self.state = {"observation": torch.stack(seen).to(self.device), "over": torch.zeros_like(self.waiting)}
        return self.observe()

    def step(self, actions: Tensor, noise: Tensor | None = None) -> Step:
        """One step of all rows. Rows whose trial is over stand still: an environment may not go on behind its end."""
        fresh, seen = self.waiting, self.state["observation"].cpu().clone()
        reward = torch.zeros(len(self.envs))
        terminated, truncated = (torch.zeros(len(self.envs), dtype=torch.bool) for _ in range(2))
        begins, over, actions = fresh.tolist(), self.state["over"].tolist(), actions.cpu()
        for row, env in enumerate(self.envs):
            if begins[row]:
                seen[row] = self._flat(env.reset()[0])
            elif not over[row]:
                observation, paid, ended, cut, _ = env.step(self._action(actions[row]))
                seen[row], reward[row] = self._flat(observation), float(paid)
                terminated[row], truncated[row] = bool(ended), bool(cut)
        seen, reward, terminated, truncated = tree_to((seen, reward, terminated, truncated), self.device)
        self.clock = torch.where(fresh, 0, self.clock + 1)
        self.episode = self.episode + fresh
        acted = ~fresh & ~self.state["over"]
        truncated = (truncated | (acted & (self.clock >= self.spec.episode_steps))) & ~terminated
        ends = (terminated | truncated) & (self.episode >= self.spec.episodes - 1)
        self.waiting = (terminated | truncated) & ~ends
        # A probe begins another episode behind the last one: such a row stands still no longer.
        self.state = {"observation": seen, "over": (self.state["over"] & ~fresh) | ends}
        return Step(seen, reward, terminated, truncated, fresh, ends)

    def observe(self) -> Tensor:
        return self.state["observation"]

    def clone(self) -> GymEnv:
        other = super().clone()
        other.envs = copy.deepcopy(self.envs)
        return other

    def to(self, device: str | torch.device) -> GymEnv:
        """As everywhere; the environments themselves stay on the CPU."""
        other = super().to(device)
        if other is not self:
            other.envs = copy.deepcopy(self.envs)
        return other

    def select(self, rows: Tensor) -> GymEnv:
        other = super().clone()
        other.params = {key: value[rows] for key, value in other.params.items()}
        other.state = {key: value[rows] for key, value in other.state.items()}
        other.clock, other.episode, other.waiting = other.clock[rows], other.episode[rows], other.waiting[rows]
        positions = torch.arange(len(self.envs))[rows.cpu()].tolist()
        other.envs = [copy.deepcopy(self.envs[i]) for i in positions]
        return other

    def close(self) -> None:
        """Closes the environments of the last trial."""
        for env in self.envs:
            env.close()
        self.envs = []

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError("Gymnasium environments begin their episodes themselves")

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        raise NotImplementedError("Gymnasium environments step themselves")

    def _flat(self, observation: Any) -> Tensor:
        return torch.as_tensor(np.asarray(spaces.flatten(self.observation_space, observation), dtype=np.float32))

    def _action(self, action: Tensor) -> Any:
        space = self.action_space
        if isinstance(space, spaces.Discrete):
            return int(action) + int(space.start)
        low, high = space.low.reshape(-1), space.high.reshape(-1)
        scaled = low + (action.double().clamp(-1, 1).numpy() + 1) / 2 * (high - low)
        return scaled.astype(space.dtype).reshape(space.shape)


class TensorVectorEnv(VectorEnv):
    """`count` trials of a task distribution as a Gymnasium `VectorEnv`, NEXT_STEP autoreset.

    An episode's end is Gymnasium's terminated or truncated; behind the last one of a trial a new task begins.
    `info["trial_over"]` (count,) says where a memory has to be cleared, `info["episode"]` which episode of its trial a
    row is in. Actions are those of the tensor environment: numbers from 0, or boxes in [-1, 1]^A.

    Args:
        tasks: p(M); tasks are drawn in the order of their indices, from `reset`'s seed.
        whole_trials: only the end of a trial counts as one: episodes within it are the agent's business, as in RL2.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(self, tasks: EnvTasks, count: int, whole_trials: bool = False) -> None:
        self.tasks, self.env, self.num_envs, self.whole_trials = tasks, tasks.env, count, whole_trials
        spec = self.env.spec
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (spec.observation,), np.float32)
        if spec.actions:
            self.single_action_space: Any = spaces.Discrete(spec.actions)
        else:
            self.single_action_space = spaces.Box(-1.0, 1.0, (spec.action_size,), np.float32)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, count)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, count)
        self.seed, self.next, self.over = 0, 0, torch.zeros(count, dtype=torch.bool)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """New trials; without a seed the tasks go on where they were."""
        if seed is not None:
            self.seed, self.next = seed, 0
        params = self._draw(self.num_envs)
        observation = self.env.reset(params, (self.seed * 1_000_003 + self.next) % SEEDS)
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
        return self.tasks.batch(self.seed, indices)

    def _begin_trials(self, rows: Tensor) -> None:
        """New tasks for some rows; the others are left as they are."""
        env, new = self.env, copy.copy(self.env)
        new.generator = torch.Generator(env.device)
        new.reset(self._draw(len(rows)), (self.seed * 1_000_003 + self.next) % SEEDS)
        for mine, theirs in ((env.params, new.params), (env.state, new.state)):
            for key, value in theirs.items():
                mine[key] = mine[key].index_copy(0, rows.to(value.device), value)
        for name in ("clock", "episode", "waiting"):
            value = getattr(new, name)
            setattr(env, name, getattr(env, name).index_copy(0, rows.to(value.device), value))

    def _info(self) -> dict[str, Any]:
        return {"trial_over": self.over.numpy().copy(), "episode": self.env.episode.cpu().numpy().copy()}


def ranges(**bounds: Sequence[float]) -> tuple[Callable[[list[float]], dict[str, float]], int]:
    """(task, task_draws) of keyword arguments, each uniform between two bounds: `ranges(g=(5, 15), l=(0.5, 1.5))`."""
    limits = {name: (float(low), float(high)) for name, (low, high) in bounds.items()}

    def task(u: list[float]) -> dict[str, float]:
        return {name: low + (high - low) * x for (name, (low, high)), x in zip(limits.items(), u, strict=True)}

    return task, len(limits)
