"""MRT-STaR: sample, measure, keep the right traces of most progress, finetune on them, again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mrt.errors import ConfigError, nearest
from mrt.reasoning.training.batches import left_out, taken
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.trainer import MRTTrainer

SCORES = ("progress", "outcome")


@dataclass
class STaRConfig(MRTConfig):
    """`MRTConfig`, and which traces are kept. A generation batch is the data of an iteration, `num_iterations` the
    passes over it.
    """

    credit: str = field(default="outcome", metadata={"help": "outcome: traces that are kept all weigh 1"})
    star_score: str = field(
        default="progress", metadata={"help": "progress: MRT | outcome: plain STaR, nothing probed"}
    )
    star_keep: int = field(default=1, metadata={"help": "traces kept a problem at most; 0: all that may be"})
    star_threshold: float = field(default=0.0, metadata={"help": "least progress J_K - J_0 of a trace that is kept"})

    def __post_init__(self) -> None:
        if self.star_score not in SCORES:
            raise ConfigError(f"star_score={self.star_score!r} is unknown; {nearest(self.star_score, SCORES)}")
        if self.star_keep < 0:
            raise ConfigError(f"star_keep={self.star_keep} must be at least 0 (0: all right traces)")
        if self.credit != "outcome" or self.rollout != "probed" or self.train_probes or self.beta:
            raise ConfigError("STaR finetunes on traces: credit=outcome, rollout=probed, train_probes=0, beta=0")
        if self.star_score == "progress" and self.probe == "none":
            raise ConfigError("star_score='progress' needs stop values: probe=coupled or gold, or star_score=outcome")
        super().__post_init__()


class STaRTrainer(MRTTrainer):
    """MRT-STaR (Qu et al. 2025, 2503.07572, figure 6 left): of the traces of a problem that end right, those whose
    progress, sum over j of J_j - J_(j-1) = J_K - J_0, is largest are kept, and the policy is finetuned on them:
    gradient of the mean of log pi over their tokens. The next iteration samples from the finetuned policy.

    The paper says "maximise progress and end right" and no thresholds: here `star_keep` traces a problem, of at least
    `star_threshold`, the shorter one where two are equal. star_score='outcome' is STaR (Zelikman et al. 2022,
    2203.14465) without rationalisation: every right trace, or `star_keep` of them, the shortest.
    """

    args: STaRConfig

    @classmethod
    def args_class(cls) -> type:
        return STaRConfig

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return output
        trials = [row["trial"] for row in inputs]
        gains = torch.tensor([_gain(trial.stop_values) for trial in trials])
        lengths = torch.tensor([float(len(trial.completion)) for trial in trials])
        scores = torch.zeros_like(gains) if self.args.star_score == "outcome" else gains
        least = -math.inf if self.args.star_score == "outcome" else self.args.star_threshold
        right = self._local_rewards(len(inputs)).cpu() > 0.5
        kept = chosen(right & (scores >= least), scores, lengths, (self.group_size, self.args.star_keep))
        kept = kept.to(output["completion_ids"].device)
        self.log_metric("star/kept", float(kept.float().mean()))
        self.log_metric("star/progress", float(gains[kept.cpu()].mean()) if bool(kept.any()) else math.nan)
        # Without log-probabilities of before the ratio is 1 in every pass: likelihood, not a clipped surrogate.
        output.pop("old_per_token_logps", None)
        super()._count({}, taken(output, kept))
        return left_out({**output, "advantages": kept.float()}, kept, self.accelerator.gather)

    def _count(self, spent: Mapping[str, float], output: Mapping[str, Tensor]) -> None:
        """Traces that are not kept are sampled and measured, never updated."""
        none = torch.zeros(len(output["completion_mask"]), dtype=torch.bool)
        super()._count(spent, taken(output, none))
        if "old_per_token_logps" in output:
            self.spent.add(sampled=float(output["prompt_mask"].sum() + output["completion_mask"].sum()))


def chosen(may: Tensor, scores: Tensor, lengths: Tensor, sizes: tuple[int, int]) -> Tensor:
    """(B,) bool: of the rows that `may` be kept the best `scores` of each group, the shorter where they are equal.

    Args:
        sizes: rows a group, and how many of them are kept (0: all).
    """
    size, keep = sizes
    kept = torch.zeros_like(may)
    for first in range(0, len(may), size):
        rows = [row for row in range(first, first + size) if bool(may[row])]
        rows.sort(key=lambda row: (-float(scores[row]), float(lengths[row])))
        kept[rows[: keep or size]] = True
    return kept


def _gain(values: Sequence[float]) -> float:
    measured = [value for value in values if value == value]
    return measured[-1] - measured[0] if measured else math.nan
