"""Gymnasium environments as task distributions (extra `[control]`), on which rollouts, trainers and evaluation run as
on tensors:

    GymEnv("Pendulum-v1", *ranges(g=(5, 15)), episodes=3)

They live on from trial to trial in a `SyncVectorEnv`, or an `AsyncVectorEnv` with a process each; observations,
rewards and ends of episodes come at NEXT_STEP autoreset, as everywhere. The other way, a tensor environment for agents
that are written against Gymnasium, is `TensorVectorEnv`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrt.control.envs.base import Spec, Step, TensorEnv, number_text
from mrt.control.envs.variation import Variation
from mrt.errors import ConfigError
from mrt.version import install_command

try:
    from gymnasium import spaces

    from mrt.control.envs.gym_ids import attributes_of, is_environment, maker, registered
    from mrt.control.envs.gym_slots import BEGIN, STAY, STEP, Assignment, Kind, Lease, Pool, assigned
    from mrt.control.envs.gym_spaces import check_actions, observation_width, own_actions
    from mrt.control.envs.gym_vector import TensorVectorEnv
except ImportError as error:
    raise ConfigError(f"this needs Gymnasium, which is not installed: {install_command('control')}") from error

__all__ = ["GymEnv", "TensorVectorEnv", "attributes_of", "is_environment", "ranges", "registered"]

SEEDS = 2**31 - 1
MODES = ("sync", "async")


class GymEnv(TensorEnv):
    """B Gymnasium environments of one kind, each with a task of its own.

    Observations are flattened (`gymnasium.spaces.flatten`: discrete ones become one-hot). Discrete actions are numbers
    from 0; box actions are in [-1, 1]^A and are scaled to the box. What an episode is, is the environment's business;
    `episode_steps` cuts it as a time limit. `clone` and `select` copy the environments (`copy.deepcopy`).

    Args:
        env: an id for `gymnasium.make`, or a function from keyword arguments to an environment.
        task: from uniform numbers in [0, 1), a list of `task_draws` floats, to the parameters of one task.
        episode_steps: the time limit of the environment's own registration when left out.
        attributes: names of parameters that are set on the unwrapped environment; the others are arguments of its
            constructor, and an environment whose arguments change is rebuilt.
        vectorization: "sync" steps the environments in turn, "async" in a process each, which pays where a step takes
            longer than a message; copies, and so probes of exploitation, need "sync".
        fixed: parameters of all tasks.

    Raises:
        ConfigError: without a time limit, or for spaces that have no vector form or no bounds.
    """

    on_tensors = False

    def __init__(
        self,
        env: str | Callable[..., Any],
        task: Callable[[list[float]], Mapping[str, Any]] = lambda u: {},
        task_draws: int = 1,
        episodes: int = 1,
        episode_steps: int | None = None,
        *,
        free_episodes: int = 0,
        name: str = "",
        attributes: Collection[str] = (),
        vectorization: str = "sync",
        **fixed: Any,
    ) -> None:
        if vectorization not in MODES:
            raise ConfigError(f"vectorization={vectorization!r} must be sync or async")
        self.task, self.task_draws, self.fixed = task, task_draws, fixed
        self.attributes, self.vectorization = frozenset(attributes), vectorization
        self.name = name or (env if isinstance(env, str) else getattr(env, "__name__", "gymnasium"))
        make = env if callable(env) else maker(env)
        probe = assigned(make, self.name, self._assignment([0.5] * task_draws))
        self.observation_space, self.action_space = probe.observation_space, probe.action_space
        steps = episode_steps or getattr(probe.spec, "max_episode_steps", None)
        probe.close()
        if not steps:
            raise ConfigError(f"{self.name} has no time limit of its own: give episode_steps")
        check_actions(self.action_space, self.name)
        width = observation_width(self.observation_space, self.name)
        self.pool = Pool(Kind(self.name, make, self.action_space, width), vectorization == "async")
        self.lease: Lease | None = None
        super().__init__(Spec(width, int(steps), episodes, free_episodes=free_episodes, **_actions(self.action_space)))

    # Tasks.

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        """The uniform numbers themselves: `task` makes parameters of them."""
        return {"u": u}

    def task_key(self, params: Mapping[str, Tensor], row: int) -> str:
        found = sorted(self.task(params["u"][row].tolist()).items())
        return f"{self.name}:{';'.join(f'{key}={number_text(value)}' for key, value in found)}"

    def mutate(self, params: Mapping[str, Tensor], u: Tensor, size: float = 0.1) -> dict[str, Tensor]:
        """As everywhere, where `task` says what its parameters are (`ranges`, or `vary` of a recipe)."""
        if not isinstance(self.task, Variation):
            raise ConfigError(
                f"the tasks of '{self.name}' come from a function, which does not say what may change a little: "
                "give ranges(...) as its task"
            )
        return {"u": self.task.mutated(params["u"], u, size)}

    def mutation_draws(self, params: Mapping[str, Tensor]) -> int:
        return params["u"].shape[1]

    def _assignment(self, u: list[float]) -> Assignment:
        chosen = {**self.fixed, **self.task(u)}
        attributes = {key: value for key, value in chosen.items() if key in self.attributes}
        return Assignment({key: value for key, value in chosen.items() if key not in attributes}, attributes)

    # The trial.

    def reset(self, params: Mapping[str, Tensor], seed: int = 0, noise: Tensor | None = None) -> Tensor:
        self.params = {key: value.to(self.device) for key, value in params.items()}
        self.generator.manual_seed(int(seed))
        rows = len(self.params["u"])
        self._lease(rows)
        self._asked("set_attr", "task", [self._assignment(u) for u in self.params["u"].tolist()])
        self.clock = torch.zeros(rows, dtype=torch.long, device=self.device)
        self.episode, self.waiting = torch.zeros_like(self.clock), torch.zeros_like(self.clock, dtype=torch.bool)
        seeds = torch.randint(SEEDS, (rows,), generator=self.generator, device=self.device).tolist()
        seen = torch.tensor(self._asked("reset", seed=seeds)[0], device=self.device)
        self.state = {"observation": seen, "over": torch.zeros_like(self.waiting)}
        return self.observe()

    def step(self, actions: Tensor, noise: Tensor | None = None) -> Step:
        """One step of all rows. Rows whose trial is over stand still: an environment may not go on behind its end."""
        fresh, over = self.waiting, self.state["over"] & ~self.waiting
        command = torch.where(fresh, BEGIN, torch.where(over, STAY, STEP)).cpu().numpy()
        found = self._asked("step", (own_actions(self.action_space, actions.cpu().numpy()), command))
        seen, reward, terminated, truncated = (torch.tensor(part, device=self.device) for part in found[:4])
        acted = ~fresh & ~over
        seen = torch.where(over[:, None], self.state["observation"], seen)
        self.clock = torch.where(fresh, 0, self.clock + 1)
        self.episode = self.episode + fresh
        truncated = acted & (truncated | (self.clock >= self.spec.episode_steps)) & ~terminated
        terminated = acted & terminated
        ends = (terminated | truncated) & (self.episode >= self.spec.episodes - 1)
        self.waiting = (terminated | truncated) & ~ends
        # A probe begins another episode behind the last one: such a row stands still no longer.
        self.state = {"observation": seen, "over": over | ends}
        return Step(seen, torch.where(acted, reward, 0.0).float(), terminated, truncated, fresh, ends)

    def observe(self) -> Tensor:
        return self.state["observation"]

    # Copies.

    def clone(self) -> GymEnv:
        other = super().clone()
        other._hold(self._copied(range(len(self.clock))))
        return other

    def to(self, device: str | torch.device) -> GymEnv:
        """As everywhere; the environments themselves stay on the CPU. With "async" the copy has to be reset."""
        other = super().to(device)
        if other is not self:
            other._hold(self._copied(range(len(self.clock))) if self.vectorization == "sync" else None)
        return other

    def select(self, rows: Tensor) -> GymEnv:
        other = super().clone()
        other.params = {key: value[rows] for key, value in other.params.items()}
        other.state = {key: value[rows] for key, value in other.state.items()}
        other.clock, other.episode, other.waiting = other.clock[rows], other.episode[rows], other.waiting[rows]
        other._hold(self._copied(torch.arange(len(self.clock))[rows.cpu()].tolist()))
        return other

    def close(self) -> None:
        """Closes all environments; the next trial builds new ones."""
        if self.lease is not None:
            self.lease.discard()
        self._hold(None)
        self.pool.close()

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError("Gymnasium environments begin their episodes themselves")

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        raise NotImplementedError("Gymnasium environments step themselves")

    def __copy__(self) -> GymEnv:
        """A copy in the same trial: `with_spec` goes on in it, and a reset of either leaves the other one's alone."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        other._hold(self.lease)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> GymEnv:
        return self.clone()

    def _hold(self, lease: Lease | None) -> None:
        if self.lease is not None and self.lease is not lease:
            self.lease.holders.discard(self)
        self.lease = lease
        if lease is not None:
            lease.holders.add(self)

    def _lease(self, rows: int) -> None:
        """Takes an environment a row that nobody else plays in: the present ones where they are as many."""
        lease = self.lease
        if lease is None or lease.vector.num_envs != rows or len(lease.holders) > 1:
            self._hold(None)
            del lease  # given back before another one is taken
            self._hold(self.pool.take(rows))

    def _copied(self, rows: Sequence[int]) -> Lease | None:
        if self.lease is None:
            return None
        if self.vectorization != "sync":
            raise ConfigError(
                f"environments of '{self.name}' in processes of their own cannot be copied, as probes of exploitation "
                "(probe_samples) and branches do: set vectorization: sync"
            )
        return self.pool.copied(self.lease, list(rows))

    def _asked(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """What the vector environment answers. After an error in one of them none is used again."""
        if self.lease is None:
            raise ConfigError(f"'{self.name}' has been closed, or never begun: reset it before a step")
        try:
            return getattr(self.lease.vector, method)(*args, **kwargs)
        except Exception:
            self.lease.discard()
            self._hold(None)
            raise


def _actions(space: Any) -> dict[str, int]:
    discrete = isinstance(space, spaces.Discrete)
    return {"actions": int(space.n)} if discrete else {"action_size": int(np.prod(space.shape))}


def ranges(**bounds: Sequence[float]) -> tuple[Variation, int]:
    """(task, task_draws) of parameters, each uniform between two bounds: `ranges(g=(5, 15), l=(0.5, 1.5))`."""
    task = Variation({name: {"range": list(limits)} for name, limits in bounds.items()})
    return task, task.draws
