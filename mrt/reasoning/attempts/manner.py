"""How a model acts in text: the form of the conversation, and what it may write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mrt.errors import ConfigError
from mrt.reasoning.attempts.form import Form
from mrt.reasoning.engines.sampling import Sampling
from mrt.text_tasks import TextTasks


@dataclass(frozen=True)
class Manner:
    """`limit` tokens of an action at most, ended by one of `stop_ids`; `context`: positions of a whole trial at most.

    `choices`: the tokens of the environment's choices where an action is one of them and nothing else can be drawn; ()
    where the model writes freely.
    """

    form: Form
    sampling: Sampling = Sampling()  # noqa: RUF009  (frozen)
    limit: int = 64
    choices: tuple[int, ...] = ()
    context: int | None = None

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """What ends an action. A choice ends itself: its keys and values are computed with the reply behind it."""
        return self.choices or self.form.end_ids

    def action(self, text: str) -> tuple[int, ...]:
        """Ids of an action as this manner writes it."""
        return (self.form.choice(text),) if self.choices else self.form.action(text)

    def fits(self, tokens: int) -> bool:
        """Whether another action has room behind so many tokens."""
        return self.context is None or tokens + self.limit <= self.context

    def ended(self, ids: Sequence[int]) -> bool:
        """Whether an action ended with an end token of the form."""
        return bool(ids) and ids[-1] in self.form.end_ids


def make_manner(
    form: Form, tasks: TextTasks, *, choose: bool, temperature: float = 1.0, limit: int = 64, context: int | None = None
) -> Manner:
    """The manner for these tasks; `choose` lets only the tokens of their choices be drawn.

    Raises:
        ConfigError: where a choice is several tokens, the tasks have no list of choices, or the model would think.
    """
    if limit < 1:
        raise ConfigError(f"action_tokens={limit} must be at least 1")
    if not choose:
        return Manner(form, Sampling(temperature), limit, context=context)
    if not tasks.choices:
        raise ConfigError(f"{tasks.name} has no list of choices: set choose=false, and the model writes freely")
    if form.thinking:
        raise ConfigError("a constrained choice leaves no room for a thought: set choose=false, or thinking=false")
    ids = tuple(form.choice(text) for text in tasks.choices)
    if len(set(ids)) < len(ids):
        raise ConfigError(f"choices of {tasks.name} share a token: set choose=false")
    return Manner(form, Sampling(temperature, allowed=ids), 1, ids, context)
