"""What rivals share that pay by more than right or wrong: rewards changed by what a whole group did."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mrt.errors import ConfigError
from mrt.reasoning.traces.trial import Trial
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.trainer import MRTTrainer

Columns = Mapping[str, Sequence[Any]]
RIGHT = 0.5  # a reward above this is that of a right answer


class ShapingTrainer(MRTTrainer):
    """An `MRTTrainer` that pays `shape(rewards, trials, columns)` while it trains.

    Forced answers of a probe and held-out problems keep the plain reward, so that J, accuracy and regret mean what they
    mean elsewhere; the log has it as `verifier/reward`.

    Raises:
        ConfigError: for several reward functions, and for rollout='plain', which knows no trials.
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: MRTConfig | None = None,
        train_dataset: Any = None,
        **kwargs: Any,
    ) -> None:
        args = args or self.args_class()()
        if isinstance(reward_funcs, list | tuple) and len(reward_funcs) == 1:
            reward_funcs = reward_funcs[0]
        if not callable(reward_funcs):
            raise ConfigError(f"{type(self).__name__} shapes one reward function, got {reward_funcs!r}")
        if args.rollout == "plain":
            raise ConfigError(f"{type(self).__name__} shapes rewards by trials: rollout='probed' (with probe='none')")
        shaped = ShapedReward(reward_funcs, self._shaped)
        super().__init__(model, shaped, args, train_dataset, **kwargs)

    def shape(self, rewards: Tensor, trials: Sequence[Trial], columns: Columns) -> Tensor:
        """(B,) what is paid for trials with these plain rewards (B,), NaN where one could not be scored. Rows of a
        group follow each other; `columns` are those of the dataset."""
        raise NotImplementedError

    def _shaped(self, rewards: Sequence[float | None], trials: Sequence[Trial], columns: Columns) -> list[float | None]:
        if not self.model.training:
            return list(rewards)
        plain = torch.tensor([math.nan if one is None else one for one in rewards])
        self.log_metric("verifier/reward", float(plain.nanmean()))
        return [None if one != one else one for one in self.shape(plain, trials, columns).tolist()]


class ShapedReward:
    """A reward function behind `shape`; without trials, as probes call it, the function itself."""

    def __init__(
        self, function: Callable[..., Sequence[float | None]], shape: Callable[..., list[float | None]]
    ) -> None:
        self.function, self.shape = function, shape
        self.__name__ = getattr(function, "__name__", type(function).__name__)

    def __call__(self, trial: Sequence[Trial] | None = None, **columns: Any) -> Sequence[float | None]:
        """Rewards (B,)."""
        rewards = self.function(**columns)
        return rewards if trial is None else self.shape(rewards, trial, columns)


def grouped(values: Tensor, size: int) -> Tensor:
    """(G, size) of values (B,) whose groups follow each other."""
    return values.reshape(-1, size)
