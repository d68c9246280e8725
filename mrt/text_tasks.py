"""Tasks in text: what an environment must be able to do so that a language model can attempt it several times.

Both perspectives meet here. `mrt.reasoning.attempts` plays whatever keeps this protocol; `mrt.control.envs.text` writes
tensor environments in text, `mrt.reasoning.attempts.countdown` gives feedback on Countdown. Neither imports the other:
a recipe names the class (`tasks: {env: module:Class, ...}`).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor

from mrt.errors import ConfigError, nearest
from mrt.runs.code import OUR_PACKAGES, import_named
from mrt.tasks import Task

T = TypeVar("T", bound="TextTasks")


@dataclass(frozen=True)
class Turn:
    """What an environment answers to one action of every row, (B,) each.

    `attempt_over`: an attempt ended (an episode of the trial); `trial_over`: it was the last one; `solved`: the trial
    ended by itself, not at its limit; `unread`: the action could not be read. Rows whose trial was over before have no
    meaning: the caller leaves them out.
    """

    texts: list[str]
    rewards: Tensor
    attempt_over: Tensor
    trial_over: Tensor
    solved: Tensor
    unread: Tensor


class TextTasks(Protocol):
    """p(M), and B tasks of it at play. An attempt is an episode of the trial: one action, or several.

    An action that cannot be read has a defined outcome: the turn is used up, the reply says so, and its reward is minus
    the penalty that the environment states.
    """

    @property
    def name(self) -> str: ...

    @property
    def attempts(self) -> int:
        """Attempts in a trial, at most."""

    @property
    def turns(self) -> int:
        """Actions in a trial, at most."""

    @property
    def choices(self) -> tuple[str, ...]:
        """The text of every action; () where they are not a short list."""

    def sample(self, seed: int, index: int) -> Task:
        """Task `index` of `seed`: a pure function, as `mrt.tasks.TaskDistribution`."""

    def reset(self, tasks: Sequence[Task], seed: int) -> list[str]:
        """Begins a trial of each of these tasks, with noise of `seed`; the texts that open them."""

    def step(self, texts: Sequence[str]) -> Turn:
        """One action of every row."""

    def select(self: T, rows: Tensor) -> T:
        """An independent copy of some rows (int64, repeats make branches), which goes on from here."""

    def payoffs(self) -> list[dict[str, float]] | None:
        """Of every row, the actions that pay and what an attempt with each of them now is expected to earn: a fact of
        the task, never shown. None where an attempt takes several actions.
        """

    def facts(self) -> dict[str, Tensor]:
        """For `Trials.privileged`: `oracle` and `floor` (B,) of one attempt of each row, where they are known."""


def make_text_tasks(options: Mapping[str, Any]) -> TextTasks:
    """The tasks that the section `tasks` of a recipe names: `env` is module:Class, the rest are its options.

    Raises:
        ConfigError: for a class that is not there or does not keep the protocol, code from outside that is not
            imported, and options that the class does not take.
    """
    named = str(options.get("env", ""))
    if not named:
        raise ConfigError(
            "tasks in text need env: module:Class, as in {env: mrt.control.envs.text:EnvInText, game: dark-room} or "
            "{env: mrt.reasoning.attempts.countdown:CountdownAttempts}"
        )
    module = named.partition(":")[0]
    foreign = module.split(".")[0] not in OUR_PACKAGES
    if foreign and module not in sys.modules:
        raise ConfigError(f"tasks.env '{named}' is code from outside mrt: allow it with --allow-code, or import it")
    kind = import_named(named, "tasks.env", allow_code=foreign)
    missing = [name for name in ("sample", "reset", "step", "select", "payoffs", "facts") if not hasattr(kind, name)]
    if missing:
        raise ConfigError(f"tasks.env '{named}' gives no tasks in text: it lacks {', '.join(missing)}")
    given = {name: value for name, value in options.items() if name != "env"}
    parameters = inspect.signature(kind).parameters
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        for name in given:
            if name not in parameters:
                raise ConfigError(f"tasks.env '{named}' has no option '{name}'; {nearest(name, set(parameters))}")
    return kind(**given)
