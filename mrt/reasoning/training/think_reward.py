"""Rewards that do not depend on a model's think tags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mrt.reasoning.traces.prompts import ThinkFormat


class ThinkReward:
    """A reward function behind a `ThinkFormat`: what it grades are completions in one spelling, `<think>`, thought,
    `</think>`, answer.

    TRL decodes completions without special tokens, so tags that are special are gone from its texts, and others are
    spelt as the model spells them. Here they are read from the ids.
    """

    def __init__(self, function: Callable[..., Sequence[float | None]], fmt: ThinkFormat) -> None:
        self.function, self.fmt = function, fmt
        self.__name__ = getattr(function, "__name__", type(function).__name__)

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> Sequence[float | None]:
        """Rewards (B,) of the completions with these ids."""
        texts = [self.fmt.plain_text(ids) for ids in completion_ids]
        return self.function(prompts=prompts, completions=texts, completion_ids=completion_ids, **columns)
