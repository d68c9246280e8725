"""Verifier-free: a thought is paid by how likely it makes the reference answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mrt.errors import ConfigError
from mrt.reasoning.baselines.shaping import Columns, ShapingTrainer
from mrt.reasoning.traces.trial import Trial
from mrt.reasoning.training.config import MRTConfig
from mrt.trials import Trials

PROBES, CREDITS = ("reference", "gold"), ("outcome", "leave_one_out")


@dataclass
class LikelihoodConfig(MRTConfig):
    """`MRTConfig`, with what measures a likelihood and nothing else.

    Raises:
        ConfigError: for another probe or credit.
    """

    probe: str = field(default="reference", metadata={"help": "reference: log-likelihood | gold: probability"})
    credit: str = field(default="leave_one_out", metadata={"help": "leave_one_out | outcome"})

    def __post_init__(self) -> None:
        if self.probe not in PROBES or self.credit not in CREDITS:
            raise ConfigError(
                f"a likelihood reward is measured by probe={' or '.join(PROBES)} and credited by "
                f"credit={' or '.join(CREDITS)}, got {self.probe} and {self.credit}"
            )
        super().__post_init__()


class LikelihoodTrainer(ShapingTrainer):
    """r = log pi(a* | x, z) with probe='reference', pi(any right answer | x, z) with probe='gold', behind the close of
    the whole thought z: likelihood rewards (2602.03979; the probability is VeriFree's, 2505.21493).

    The weights of the thought's tokens and of its close are the credit's; those of the answer that was sampled are 0,
    for the reward does not depend on it. With credit='leave_one_out' and train_probes=1 the reference answer is
    learned too, each trace's with weight 1: together an unbiased gradient of E_z log pi(a* | x, z). The verifier is
    only asked for the log (`verifier/reward`) and in evaluation.
    """

    args: LikelihoodConfig

    @classmethod
    def args_class(cls) -> type:
        return LikelihoodConfig

    def shape(self, rewards: Tensor, trials: Sequence[Trial], columns: Columns) -> Tensor:
        for trial in trials:
            trial.drawn = trial.drawn[-1:]  # at the end of the thought
        return torch.tensor([_last(trial.stop_values) for trial in trials])

    def weigh(self, record: Trials) -> Tensor | None:
        weights, _ = self.credit.weigh(record, self.done())
        return weights * of_thought(record)


def of_thought(record: Trials) -> Tensor:
    """(B, T) bool: the tokens of the thought and the one behind it, which ends it."""
    inside = record.episode >= 0
    after = torch.cat([torch.zeros_like(inside[:, :1]), inside[:, :-1]], 1)
    first = record.mask & (record.mask.cumsum(1) == 1)  # of a completion that answers at once, its close
    return (inside | after | first) & record.mask


def _last(values: Sequence[float]) -> float:
    measured = [value for value in values if value == value]
    return measured[-1] if measured else math.nan
