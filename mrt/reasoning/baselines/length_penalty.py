"""Length penalty relative to the group: right answers are paid less the longer they are among the right ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mrt.errors import ConfigError
from mrt.reasoning.baselines.shaping import RIGHT, Columns, ShapingTrainer, grouped
from mrt.reasoning.traces.trial import Trial
from mrt.reasoning.training.config import MRTConfig

EPS = 1e-7


@dataclass
class LengthPenaltyConfig(MRTConfig):
    """`MRTConfig` and the weight of the penalty."""

    length_alpha: float = field(default=0.1, metadata={"help": "share of a right answer's reward that length can take"})

    def __post_init__(self) -> None:
        if not 0 <= self.length_alpha < 1:
            raise ConfigError(f"length_alpha={self.length_alpha} must be at least 0 and below 1")
        super().__post_init__()


class LengthPenaltyTrainer(ShapingTrainer):
    """r = 1[right] (1 - alpha sigmoid((n - mean) / std)), n the tokens of the completion, mean and standard deviation
    over the right completions of the group: Arora and Zanette 2025 (2502.04463), "length penalty" in table 1 of MRT."""

    args: LengthPenaltyConfig

    @classmethod
    def args_class(cls) -> type:
        return LengthPenaltyConfig

    def shape(self, rewards: Tensor, trials: Sequence[Trial], columns: Columns) -> Tensor:
        lengths = torch.tensor([float(len(trial.completion)) for trial in trials])
        return efficient(rewards, lengths, self.group_size, self.args.length_alpha)


def efficient(rewards: Tensor, lengths: Tensor, size: int, alpha: float) -> Tensor:
    """(B,) rewards of groups of `size`, those of right answers times 1 - alpha sigmoid(z), z the normalised length
    (deviation of the whole population; 0 where all right answers are equally long)."""
    reward, length = grouped(rewards, size), grouped(lengths, size)
    right = (reward > RIGHT).float()
    count = right.sum(1, keepdim=True).clamp(min=1)
    mean = (length * right).sum(1, keepdim=True) / count
    deviation = ((length - mean).square() * right).sum(1, keepdim=True).div(count).sqrt()
    z = (length - mean) / (deviation + EPS)
    return torch.where(right > 0, reward * (1 - alpha * z.sigmoid()), reward).reshape(-1)
