"""DAPO's dynamic sampling: groups without variance teach nothing, so others are sampled in their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mrt.errors import ConfigError
from mrt.reasoning.training.batches import joined, left_out, taken, varying
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.trainer import MRTTrainer


@dataclass
class DAPOConfig(MRTConfig):
    """`MRTConfig` and how often a batch is filled up."""

    dynamic_rounds: int = field(
        default=10, metadata={"help": "samplings of a batch at most; 1 only leaves groups without variance out"}
    )

    def __post_init__(self) -> None:
        if self.dynamic_rounds < 1:
            raise ConfigError(f"dynamic_rounds={self.dynamic_rounds} must be at least 1")
        if self.train_probes:
            raise ConfigError("train_probes adds rows to every sampling of a batch: set it to 0 with dynamic sampling")
        super().__post_init__()


class DAPOTrainer(MRTTrainer):
    """Dynamic sampling of DAPO (Yu et al. 2025, 2503.14476): every group that is trained on has 0 < right < G. Its
    other parts are arguments of TRL: `loss_type: dapo` (mean over tokens), `epsilon_high: 0.28` (clip-higher).

    Groups without variance are replaced by groups of problems drawn at random from the training set, as many as are
    missing, until there is none or after `dynamic_rounds`. What is still missing then is left out: no token of it is in
    the loss or in its divisor. All that was sampled is counted as cost, what was left out is not counted as updated.
    """

    args: DAPOConfig

    @classmethod
    def args_class(cls) -> type:
        return DAPOConfig

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        size, rows = self.group_size, len(inputs)
        kept: list[dict[str, Any]] = []
        have = torch.zeros(0, dtype=torch.bool)
        for round_ in range(1, self.args.dynamic_rounds + 1):
            output = super()._generate_and_score_completions(inputs)
            good = varying(self._local_rewards(len(inputs)), size)
            missing = self._most(rows - sum(len(one["advantages"]) for one in kept) - int(good.sum()))
            last = missing <= 0 or round_ == self.args.dynamic_rounds
            kept.append(output if last else taken(output, good))
            have = torch.cat([have.to(good), good if last else good[good]])
            self.log_metric("dynamic/varying", float(good.float().mean()))
            if last:
                break
            inputs = self._others(missing // size)
        # Groups that vary first: where another process needed more, there is more than enough here.
        order = torch.cat([have.nonzero()[:, 0], (~have).nonzero()[:, 0]])[:rows]
        batch = taken(joined(kept, int(self._tokenizer.pad_token_id)), order)
        self.log_metric("dynamic/left_out", float((~have[order]).float().mean()))
        return left_out(batch, have[order], self.accelerator.gather)

    def _count(self, spent: Mapping[str, float], output: Mapping[str, Tensor]) -> None:
        """Rows of groups without variance are sampled (and passed for their log-probabilities), never updated."""
        good = varying(self._local_rewards(len(output["advantages"])), self.group_size)
        super()._count(spent, taken(output, good))
        if "old_per_token_logps" in output:
            unused = taken(output, ~good)
            self.spent.add(sampled=float(unused["prompt_mask"].sum() + unused["completion_mask"].sum()))

    def _others(self, groups: int) -> list[dict[str, Any]]:
        """Rows of further problems, each as often as a group has rows; drawn by the global random state."""
        chosen = torch.randint(len(self.train_dataset), (groups,)).tolist()
        return [dict(self.train_dataset[i]) for i in chosen for _ in range(self.group_size)]

    def _most(self, missing: int) -> int:
        """The largest number over all processes: they sample together."""
        return int(self.accelerator.gather(torch.tensor([missing], device=self.accelerator.device)).max())
