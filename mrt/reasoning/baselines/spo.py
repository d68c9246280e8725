"""SPO-chain: values under going on at boundaries that the policy's own doubts set, learned only where it doubts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mrt.errors import ConfigError
from mrt.reasoning.engines.base import Engine
from mrt.reasoning.traces.prompts import ThinkFormat
from mrt.reasoning.traces.trial import Segment, Trial
from mrt.reasoning.training.batches import drawn_logprobs
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.mixed import PrefixPool
from mrt.reasoning.training.samplers import Sampler, SampleRequest
from mrt.reasoning.training.trainer import MRTTrainer


@dataclass
class SPOConfig(MRTConfig):
    """`MRTConfig`, and what a cutpoint is."""

    credit: str = field(default="vineppo", metadata={"help": "vineppo: differences of V"})
    probe: str = field(default="continue", metadata={"help": "continue: V under going on"})
    cut_probability: float = field(default=0.9, metadata={"help": "a token that was less likely is a cutpoint"})
    cut_every: int = field(default=5, metadata={"help": "cutpoints a segment"})

    def __post_init__(self) -> None:
        if self.credit != "vineppo":
            raise ConfigError(f"SPO is made of differences of V: credit=vineppo, got {self.credit!r}")
        if not 0 < self.cut_probability <= 1 or self.cut_every < 1:
            raise ConfigError("cut_probability must be above 0 and at most 1, cut_every at least 1")
        super().__post_init__()


class SPOTrainer(MRTTrainer):
    """SPO-chain (Guo et al. 2025, 2505.23564): a cutpoint is a token drawn with probability below `cut_probability`, a
    segment has `cut_every` of them, A_k = V(s_(k+1)) - V(s_k), the last one R - V(s_K). Only cutpoints are in the loss
    and in its divisor. `probe_boundaries` (6 unless set) bounds how many boundaries of a trace are measured; what lies
    between two measured ones is one segment.
    """

    args: SPOConfig

    @classmethod
    def args_class(cls) -> type:
        return SPOConfig

    def make_sampler(self, fmt: ThinkFormat, segment: Segment, pool: PrefixPool) -> Sampler:
        return Recut(super().make_sampler(fmt, segment, pool), self.args.cut_probability, self.args.cut_every)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self.model.training:
            drawn = drawn_logprobs([row["trial"] for row in inputs], output["completion_ids"])
            doubtful = (drawn < math.log(self.args.cut_probability)).to(output["completion_mask"])
            output["tool_mask"] = output.get("tool_mask", torch.ones_like(doubtful)) * doubtful
            mask = output["completion_mask"] * output["tool_mask"]
            output["num_items_in_batch"] = self.accelerator.gather(mask.sum()).sum()
        return output


@dataclass(frozen=True)
class Recut:
    """The trials of another sampler, their thoughts cut behind every `every`-th cutpoint."""

    inner: Sampler
    probability: float
    every: int

    def sample(self, engine: Engine, request: SampleRequest) -> list[Trial]:
        trials = self.inner.sample(engine, request)
        for trial in trials:
            if trial.ends and trial.logprobs is not None:
                thought = trial.logprobs[trial.start : trial.start + trial.ends[-1]]
                trial.ends = cut_ends(thought, self.probability, self.every)
        return trials


def cut_ends(logprobs: Sequence[float], probability: float, every: int) -> list[int]:
    """Exclusive ends of segments with `every` cutpoints each; the last one ends with the thought."""
    points = [i + 1 for i, one in enumerate(logprobs) if one < math.log(probability)]
    return sorted({*points[every - 1 :: every], len(logprobs)})
