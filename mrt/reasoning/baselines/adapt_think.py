"""AdaptThink: half of a group answers at once, half thinks; answering at once is preferred where it costs nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mrt.errors import ConfigError
from mrt.reasoning.baselines.shaping import RIGHT, Columns, ShapingTrainer, grouped
from mrt.reasoning.engines.base import Engine
from mrt.reasoning.traces.prompts import ThinkFormat
from mrt.reasoning.traces.sample_row import SampleRow
from mrt.reasoning.traces.trial import Segment, Trial
from mrt.reasoning.training.batches import drawn_logprobs
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.mixed import PrefixPool
from mrt.reasoning.training.samplers import Budgeted, Sampler, SampleRequest, continue_rows
from mrt.trials import Trials

HALF = math.log(0.5)


@dataclass
class AdaptThinkConfig(MRTConfig):
    """`MRTConfig` and the worth of not thinking."""

    credit: str = field(default="outcome", metadata={"help": "the advantage is the reward itself"})
    adapt_delta: float = field(default=0.05, metadata={"help": "what an answer without a thought earns for being one"})

    def __post_init__(self) -> None:
        wrong = self.credit != "outcome" or self.rollout != "probed" or self.thinking_budget is None or self.use_vllm
        if wrong or int(self.num_generations or 0) % 2:
            raise ConfigError("AdaptThink: credit=outcome, rollout=probed, a thinking_budget, even groups, no vLLM")
        super().__post_init__()


class AdaptThinkTrainer(ShapingTrainer):
    """AdaptThink (Zhang et al. 2025, 2505.13417): A = R - mean R_thinking + delta 1[no thought], not normalised; the
    first token of each half has probability 1/2 in the ratio, so that both modes are learned from however rare one is.

    Deviations: the paper's reference is the accuracy of the first model's thoughts, sampled before training; here it is
    that of the group's own thinking half, which needs no second model. A thought begins with what the policy draws
    there, the closing tag apart, not with one word for all.
    """

    args: AdaptThinkConfig

    @classmethod
    def args_class(cls) -> type:
        return AdaptThinkConfig

    def make_sampler(self, fmt: ThinkFormat, segment: Segment, pool: PrefixPool) -> Sampler:
        whole = super().make_sampler(fmt, segment, pool)
        assert isinstance(whole, Budgeted)
        return BothModes(whole, len(self._tokenizer))

    def shape(self, rewards: Tensor, trials: Sequence[Trial], columns: Columns) -> Tensor:
        return preferred(rewards, self.group_size, self.args.adapt_delta)

    def weigh(self, record: Trials) -> Tensor:
        return torch.nan_to_num(record.returns)[:, None] * record.mask

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self.model.training:
            trials = [row["trial"] for row in inputs]
            output["old_per_token_logps"] = drawn_logprobs(trials, output["completion_ids"])
        return output


@dataclass(frozen=True)
class BothModes:
    """Groups whose first half begins with the closing tag, the second with any other token of `vocabulary`.

    A first token's probability is that of the mixture: 1/2 for the mode, times that within the mode.
    """

    whole: Budgeted
    vocabulary: int

    def sample(self, engine: Engine, request: SampleRequest) -> list[Trial]:
        if not request.training:
            return self.whole.sample(engine, request)
        fmt, half, prompts = self.whole.fmt, request.group // 2, request.prompts[:: request.group]
        others = tuple(i for i in range(self.vocabulary) if i != fmt.close_ids[0])
        within = replace(request.sampling, allowed=others)
        own = replace(request, limit=1, group=half, keep=False, sampling=within)
        firsts = continue_rows(engine, fmt, prompts, [1] * len(prompts), own)
        rows, given = [], [0.0] * (len(fmt.close_ids) - 1)
        for prompt, first in zip(prompts, firsts, strict=True):
            rows += [SampleRow(prompt, [*fmt.close_ids], [HALF, *given], [1, *map(int, given)]) for _ in range(half)]
            pairs = zip(first.ids, first.logprobs, strict=True)
            rows += [SampleRow(prompt, [*ids], [HALF + said[0]], [1]) for ids, said in pairs]
        going = [row for row in rows if row.ids[-1] not in fmt.end_ids]
        limits = [self.whole.budget - len(row.ids) for row in going]
        starts = [row.context for row in going]
        rest = continue_rows(engine, fmt, starts, limits, replace(request, group=1, keep=False))
        for row, one in zip(going, rest, strict=True):
            row.draw(one.ids[0], one.logprobs[0])
        return self.whole.finish(engine, rows, request)


def preferred(rewards: Tensor, size: int, delta: float) -> Tensor:
    """(B,) R - mean R of the group's second half, which thinks, + delta for the first half, which does not."""
    reward = grouped((rewards > RIGHT).float().where(~rewards.isnan(), rewards), size)
    bonus = torch.zeros_like(reward)
    bonus[:, : size // 2] = delta
    return (reward - reward[:, size // 2 :].nanmean(1, keepdim=True) + bonus).reshape(-1)
