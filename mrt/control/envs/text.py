"""Tensor environments in text (`mrt.text_tasks.TextTasks`): bandits and rooms, for a language model to play.

    tasks: {env: mrt.control.envs.text:EnvInText, game: bernoulli-bandit, arms: 2, pulls: 30}

An action is a number: an arm, or a move (0 stay, 1 up, 2 right, 3 down, 4 left). Two ways of writing. `signs` is short
and fits the vocabulary of the tiny model: a trial opens with `2,30` (arms, pulls) or `4,4` (the cell), and the replies
are ✓ and ✗, or the cell, with ✓ behind it where it paid and `/` before the first cell of a new attempt. `words` are
sentences for a pretrained model.

A pull of a bandit is an attempt of its own (a bandit is a task of one step); elsewhere an attempt is an episode of the
environment. An action that cannot be read uses up its turn as action 0 (arm 0, or staying): what it earned is not told
and not paid, the reply is `~`, and the reward is minus `penalty`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from mrt.control.envs import make_tasks
from mrt.control.envs.bandits import BernoulliBandit, DependentBandit, RestlessBandit
from mrt.control.envs.base import TensorEnv
from mrt.control.envs.grids import Room
from mrt.control.oracles import episode_bounds
from mrt.errors import ConfigError, nearest
from mrt.tasks import Task
from mrt.text_tasks import Turn

Writing = Literal["signs", "words"]
E = TypeVar("E", bound="EnvInText")
ARMS = (BernoulliBandit, DependentBandit, RestlessBandit)  # arms that pay 1 or 0
UNREAD = {"signs": "~", "words": "That is not one of the numbers: the turn is lost."}
MOVES = "0 stay, 1 up, 2 right, 3 down, 4 left"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class EnvInText:
    """A tensor environment as tasks in text.

    Args:
        game: an environment of `mrt.control.envs` by its name: a bandit whose arms pay 1 or 0, or a room of cells.
        writing: "signs" (for the tiny model) | "words".
        penalty: what an action that cannot be read costs.
        split: as for `make_tasks`; `options` are those of the environment.

    Raises:
        ConfigError: for an environment that has no text, and options that it does not take.
    """

    def __init__(
        self, game: str, writing: Writing = "signs", penalty: float = 0.5, split: str | None = None, **options: Any
    ) -> None:
        if writing not in UNREAD:
            raise ConfigError(f"writing={writing!r} is unknown; {nearest(str(writing), tuple(UNREAD))}")
        self.tasks = make_tasks(game, split, **options)
        self.env = self.tasks.env
        if not isinstance(self.env, (*ARMS, Room)):
            raise ConfigError(
                f"environment '{game}' has no text: there are bandits that pay 1 or 0 (bernoulli-bandit, "
                "dependent-bandit, restless-bandit) and rooms of cells (dark-room, grid-navi)"
            )
        self.name, self.writing, self.penalty = f"{game} in text", writing, penalty
        self.is_bandit = isinstance(self.env, ARMS)
        spec = self.env.spec
        self.turns = spec.trial_steps
        self.attempts = spec.trial_steps if self.is_bandit else spec.episodes
        self.choices = tuple(str(action) for action in range(spec.actions))

    def sample(self, seed: int, index: int) -> Task:
        """As `EnvTasks.sample`."""
        return self.tasks.sample(seed, index)

    def reset(self, tasks: Sequence[Task], seed: int) -> list[str]:
        """Begins a trial of each of these tasks."""
        names = tasks[0].data
        self.env.reset({name: torch.stack([task.data[name] for task in tasks]) for name in names}, seed)
        return self._opening()

    def step(self, texts: Sequence[str]) -> Turn:
        """One action of every row; the first observation of the next episode comes with the end of the last."""
        env = self.env
        read = [self.action_of(text) for text in texts]
        unread = torch.tensor([action is None for action in read])
        found = env.step(torch.tensor([action or 0 for action in read]))
        over = found.terminated | found.truncated
        replies = self._replies(found.reward, unread)
        _begin_waiting(env)
        if not self.is_bandit:
            again = zip(replies, self._cells(), (over & ~found.trial_over).tolist(), strict=True)
            replies = [self._next(reply, cell) if fresh else reply for reply, cell, fresh in again]
        rewards = torch.where(unread, -self.penalty, found.reward)
        attempt = torch.ones_like(over) if self.is_bandit else over
        return Turn(replies, rewards, attempt, found.trial_over, torch.zeros_like(over), unread)

    def select(self: E, rows: Tensor) -> E:
        """An independent copy of some rows. What is random from here on is drawn anew."""
        other = copy.copy(self)
        other.env = self.env.select(rows)
        other.env.generator.manual_seed(int(torch.randint(2**31, (1,))))
        return other

    def payoffs(self) -> list[dict[str, float]] | None:
        """Of a bandit the mean of every arm; None for rooms."""
        if not self.is_bandit:
            return None
        means: Tensor = self.env.arm_means()  # type: ignore[attr-defined]
        return [dict(zip(self.choices, row, strict=True)) for row in means.tolist()]

    def facts(self) -> dict[str, Tensor]:
        """`oracle` and `floor` (B,) of one attempt: a pull, or an episode."""
        share = self.env.spec.episode_steps if self.is_bandit else 1
        return {name: value / share for name, value in episode_bounds(self.env, self.env.params).items()}

    def action_of(self, text: str) -> int | None:
        """The one number that `text` names, if it is an action; else None."""
        named = set(NUMBER.findall(text))
        number = named.pop() if len(named) == 1 else ""
        return int(number) if number in self.choices else None

    def _opening(self) -> list[str]:
        env, rows = self.env, len(self.env.clock)
        if self.is_bandit:
            arms, pulls = env.spec.actions, env.spec.trial_steps
            said = (
                f"There are {arms} slot machines, numbered 0 to {arms - 1}. Each pays 1 or 0, with a chance of its "
                f"own. You have {pulls} pulls; earn as much as you can. Answer with the number of a machine."
            )
            return [f"{arms},{pulls}" if self.writing == "signs" else said] * rows
        size, spec = env.size, env.spec  # type: ignore[attr-defined]
        said = (
            f"A dark room has {size} times {size} cells and a goal in one of them, which you cannot see. You have "
            f"{spec.episodes} attempts of {spec.episode_steps} moves to be at the goal. Answer with a number: {MOVES}. "
        )
        return [cell if self.writing == "signs" else said + cell for cell in self._cells()]

    def _replies(self, rewards: Tensor, unread: Tensor) -> list[str]:
        signs = self.writing == "signs"
        if self.is_bandit:
            paid = {True: "✓", False: "✗"} if signs else {True: "It paid 1.", False: "It paid 0."}
            told = [paid[reward > 0] for reward in rewards.tolist()]
        else:
            mark = "✓" if signs else " The goal is here."
            pairs = zip(self._cells(), rewards.tolist(), strict=True)
            told = [cell + (mark if reward > 0 else "") for cell, reward in pairs]
        return [UNREAD[self.writing] if lost else text for text, lost in zip(told, unread.tolist(), strict=True)]

    def _cells(self) -> list[str]:
        places = self.env.xy[self.env.state["cell"]].tolist()  # type: ignore[attr-defined]
        return [f"{x},{y}" if self.writing == "signs" else f"You are at ({x}, {y})." for x, y in places]

    def _next(self, reply: str, cell: str) -> str:
        return f"{reply}/{cell}" if self.writing == "signs" else f"{reply} The next attempt begins. {cell}"


def _begin_waiting(env: TensorEnv) -> None:
    """Begins the next episode of the rows that wait for it; all others stay where they are."""
    rows = env.waiting
    if not bool(rows.any()):
        return
    before = env.clone()
    env.step(torch.zeros_like(env.clock))
    for name, value in env.state.items():
        env.state[name] = torch.where(rows.view(-1, *[1] * (value.ndim - 1)), value, before.state[name])
    env.clock = torch.where(rows, env.clock, before.clock)
    env.episode = torch.where(rows, env.episode, before.episode)
    env.waiting = torch.where(rows, env.waiting, before.waiting)
