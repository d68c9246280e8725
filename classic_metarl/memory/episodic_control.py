"""Episodic control: act by what a table says that followed from similar situations. What MFEC and NEC share.

A trial begins with an empty table, one for each action. Every step is looked up, the action of the highest value is
taken (by chance in a share `epsilon` of the steps), and at the end of every episode what followed is written for all
of its steps. The table is the adaptation phi of the trial, written at the cadence of episodes, and dies with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from classic_metarl.memory.dictionary import Table, distances, empty_table, touch, write
from mrt.control.agent import Agent, Choice, Seen, Shape
from mrt.control.envs import Spec
from mrt.errors import ConfigError, nearest


class EpisodicConfig(PreTrainedConfig):
    """Shapes as in `Spec`.

    Args:
        horizon: most steps of an episode.
        slots: entries of each action's table.
        neighbours: nearest entries that are read.
        gamma: discount a step.
        epsilon: share of steps with a chance action; none when it acts greedily.
        unknown: value of an action of which nothing is known.
        limit: write episodes that the time limit ends too. What would have followed is not known there: the last
            steps before it look better than those before them.
    """

    model_type = "mrt-episodic"

    def __init__(
        self,
        observation: int = 1,
        actions: int = 2,
        horizon: int = 1,
        *,
        slots: int = 128,
        neighbours: int = 11,
        gamma: float = 1.0,
        epsilon: float = 0.05,
        unknown: float = 0.0,
        limit: bool = True,
        **kwargs: Any,
    ) -> None:
        self.observation, self.actions, self.horizon = observation, actions, horizon
        self.slots, self.neighbours, self.gamma = slots, neighbours, gamma
        self.epsilon, self.unknown, self.limit = epsilon, unknown, limit
        super().__init__(**kwargs)

    @classmethod
    def checked(cls, spec: Spec, options: Mapping[str, Any]) -> Any:
        """The configuration for an environment.

        Raises:
            ConfigError: for continuous actions, options that there are none of, and values out of range.
        """
        if not spec.actions:
            raise ConfigError("episodic control keeps a table for each action: it needs discrete actions")
        known = set(cls().to_dict()) - set(PreTrainedConfig().to_dict()) - {"observation", "actions", "horizon"}
        for name in options:
            if name not in known:
                raise ConfigError(f"policy has no option '{name}'; {nearest(name, known)}")
        made = cls(spec.observation, spec.actions, spec.episode_steps, **options)
        if made.slots < 1 or made.neighbours < 0 or not 0 <= made.epsilon <= 1 or not 0 <= made.gamma <= 1:
            raise ConfigError(
                f"slots={made.slots} must be at least 1, neighbours={made.neighbours} at least 0, epsilon="
                f"{made.epsilon} and gamma={made.gamma} from 0 to 1"
            )
        return made


class Life(NamedTuple):
    """Memory of B trials: the table, and the steps of the episode under way: `keys` (B, L, P), `actions`, `rewards` and
    `best` (B, L), the highest value that was seen there, `length` (B,); `now` (B,) counts all steps.
    """

    table: Table
    keys: Tensor
    actions: Tensor
    rewards: Tensor
    best: Tensor
    length: Tensor
    now: Tensor


class EpisodicControl(PreTrainedModel, Agent):
    """An agent with a table. A subclass gives `key`, `estimate`, `followed` and `merge`."""

    config_class: type[Any] = EpisodicConfig
    base_model_prefix = "policy"
    main_input_name = "observation"
    cadence = "episode"

    def __init__(self, config: EpisodicConfig) -> None:
        super().__init__(config)
        self.shape = Shape(config.observation, config.actions, 0)

    def _init_weights(self, module: Any) -> None:
        """Parts come initialised."""

    @classmethod
    def for_spec(cls, spec: Spec, **options: Any) -> Any:
        """A fresh agent for an environment; raises ConfigError as `EpisodicConfig.checked`."""
        return cls(cls.config_class.checked(spec, options))

    # What a system says.

    def key(self, observation: Tensor) -> Tensor:
        """(..., P) of an observation (..., D)."""
        raise NotImplementedError(f"{type(self).__name__} has to define key(observation)")

    def estimate(self, table: Table, distance: Tensor) -> Tensor:
        """(B, A) values, given the squared distances (B, A, S) of the present key."""
        raise NotImplementedError(f"{type(self).__name__} has to define estimate(table, distance)")

    def followed(self, rewards: Tensor, best: Tensor, episode: Tensor) -> Tensor:
        """(B, L) what is written for each step; see `n_step_returns`."""
        raise NotImplementedError(f"{type(self).__name__} has to define followed(rewards, best, episode)")

    def merge(self, old: Tensor, new: Tensor) -> Tensor:
        """What becomes of a value (N,) that is there already."""
        raise NotImplementedError(f"{type(self).__name__} has to define merge(old, new)")

    # Acting.

    def init_state(self, rows: int) -> Life:
        config, device = self.config, self.device
        key = self.key(torch.zeros(1, config.observation, device=device)).detach()
        zeros = torch.zeros(rows, config.horizon, device=device)
        count = torch.zeros(rows, dtype=torch.long, device=device)
        return Life(
            table=empty_table(rows, config.actions, config.slots, key),
            keys=key.new_zeros(rows, config.horizon, key.shape[-1]),
            actions=zeros.long(),
            rewards=zeros,
            best=zeros.clone(),
            length=count,
            now=count.clone(),
        )

    @torch.no_grad()
    def act(self, seen: Seen, state: Life, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        observation = seen["observation"].to(self.device)
        self._paid(seen, state)
        key = self.key(observation)
        distance = distances(state.table, key)
        values = self.estimate(state.table, distance)
        touch(state.table, distance, self.config.neighbours, state.now)
        best = values.amax(1)
        actions = values.argmax(1)
        if not greedy:  # equal values are chosen among by chance
            noise = torch.rand(values.shape, generator=generator, device=values.device)
            actions = torch.where(values == best[:, None], noise, -1.0).argmax(1)
            chance = torch.rand(len(best), generator=generator, device=values.device) < self.config.epsilon
            actions = torch.where(chance, noise.argmax(1), actions)
        acting = (seen["done"].to(self.device) < 0.5) & (state.length < self.config.horizon)
        index, at = torch.nonzero(acting)[:, 0], state.length[acting]
        state.keys[index, at], state.actions[index, at], state.best[index, at] = key[index], actions[index], best[index]
        state = state._replace(length=state.length + acting, now=state.now + 1)
        return Choice(actions, torch.zeros_like(best), best, state)

    @torch.no_grad()
    def adapt(self, seen: Seen, state: Life, ended: Tensor) -> Life:
        """Writes what followed from each step of the episodes of `ended`, the last step first."""
        ended = ended.to(self.device)
        self._paid(seen, state)
        steps = torch.arange(self.config.horizon, device=self.device)
        episode = torch.where(steps < state.length[:, None], 0, -1)
        worth = self.followed(torch.where(episode == 0, state.rewards, 0.0), state.best, episode)
        written = ended if self.config.limit else ended & (state.length < self.config.horizon)
        for t in reversed(range(int(state.length.max()))):
            rows = written & (t < state.length)
            if bool(rows.any()):
                write(state.table, (state.keys[:, t], state.actions[:, t], worth[:, t]), rows, state.now, self.merge)
        return state._replace(length=torch.where(ended, 0, state.length))

    def _paid(self, seen: Seen, state: Life) -> None:
        """Notes the reward of the last step; a row at the start of an episode has made none."""
        index = torch.nonzero(state.length)[:, 0]
        state.rewards[index, state.length[index] - 1] = seen["reward"].to(self.device)[index]


def n_step_returns(rewards: Tensor, values: Tensor, episode: Tensor, steps: int, gamma: float) -> Tensor:
    """(B, T) sum_(j < N) gamma^j r_(t+j) + gamma^N V_(t+N), of what lies in the same episode.

    rewards, values (B, T); episode (B, T) whole numbers, -1 where nothing was chosen. N = `steps` (equation 3 of
    1703.01988); an episode that ends before has nothing to come.
    """
    total = torch.zeros_like(rewards)
    width = rewards.shape[1]
    for j in range(min(steps, width)):
        same = (episode[:, j:] == episode[:, : width - j]) & (episode[:, : width - j] >= 0)
        total[:, : width - j] += gamma**j * torch.where(same, rewards[:, j:], 0.0)
    if steps < width:
        same = (episode[:, steps:] == episode[:, : width - steps]) & (episode[:, : width - steps] >= 0)
        total[:, : width - steps] += gamma**steps * torch.where(same, values[:, steps:], 0.0)
    return total
