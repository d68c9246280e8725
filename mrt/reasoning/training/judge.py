"""The rewards of forced answers, by the very reward functions that training uses."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mrt.errors import ConfigError


def judge_with(
    trainer: Any, rows: Sequence[Mapping[str, Any]], completions: Sequence[str], completion_ids: Sequence[Sequence[int]]
) -> list[float | None]:
    """Rewards of `completions` by the reward functions of a TRL trainer, weighted as in training; None where none of
    them could score.

    Raises:
        ConfigError: for a reward model, which scores no text by itself.
    """
    chat = isinstance(rows[0]["prompt"], list)
    texts: list[Any] = [[{"role": "assistant", "content": text}] if chat else text for text in completions]
    skipped = ("prompt", "completion", "completion_ids", "trial")
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0] if name not in skipped}
    prompts = [row["prompt"] for row in rows]
    columns |= {"trainer_state": trainer.state, "log_extra": _ignore, "log_metric": _ignore}
    total: list[float | None] = [None] * len(rows)
    for function, weight in zip(trainer.reward_funcs, trainer.reward_weights.tolist(), strict=True):
        if isinstance(function, nn.Module) or not callable(function):
            raise ConfigError("probes cannot call a reward model: use a reward function, or probe='gold'")
        ids = [list(one) for one in completion_ids]
        rewards = function(prompts=prompts, completions=texts, completion_ids=ids, **columns)
        if inspect.isawaitable(rewards):
            rewards = asyncio.run(_wait(rewards))
        for i, reward in enumerate(rewards):
            if reward is not None:
                total[i] = (total[i] or 0.0) + weight * reward
    return total


def _ignore(*_: Any) -> None:
    """Forced answers leave no trace in the completions table or the verifier's shares."""


async def _wait(rewards: Any) -> Any:
    return await rewards
