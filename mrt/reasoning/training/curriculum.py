"""Curricula: more tokens as training goes on, and problems of the difficulty that teaches most."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mrt.errors import ConfigError
from mrt.reasoning.engines.base import Engine
from mrt.reasoning.traces.prompts import ThinkFormat
from mrt.reasoning.traces.trial import Segment, Trial
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.mixed import PrefixPool
from mrt.reasoning.training.samplers import Budgeted, Sampler, SampleRequest
from mrt.reasoning.training.trainer import MRTTrainer

LEAST = 0.02  # of p (1 - p): no set is forgotten


@dataclass
class CurriculumConfig(MRTConfig):
    """`MRTConfig`, and how budget and problems move."""

    budget_stages: list[list[int]] | None = field(
        default=None, metadata={"help": "[[from update, thinking tokens], ...], the last with thinking_budget"}
    )
    by_success: bool = field(default=False, metadata={"help": "draw the sets of a mixture by p (1 - p)"})
    success_memory: float = field(
        default=0.9, metadata={"help": "share of a set's success that a batch leaves as it was"}
    )

    def __post_init__(self) -> None:
        stages = self.budget_stages
        if stages is not None:
            starts, budgets = [one[0] for one in stages], [one[-1] for one in stages]
            rising = starts[:1] == [0] and starts == sorted(set(starts)) and min(budgets, default=0) >= 1
            if not rising or any(len(one) != 2 for one in stages) or budgets[-1] != self.thinking_budget:
                raise ConfigError(
                    "budget_stages is [[0, tokens], [update, tokens], ...] with rising updates, and its last tokens "
                    f"are thinking_budget ({self.thinking_budget}); got {stages}"
                )
        if not 0 <= self.success_memory < 1:
            raise ConfigError(f"success_memory={self.success_memory} must be at least 0 and below 1")
        super().__post_init__()


class CurriculumTrainer(MRTTrainer):
    """Token budgets in stages, as DeepScaleR's 8k, 16k, 24k, which act as an implicit MRT (Qu et al. 2025, 2503.07572,
    figures 11 and 12). And sets of a `mixture` drawn in proportion to p (1 - p), p the moving mean of their success:
    the variance of a right-or-wrong reward, so sets that are always right or never are left for later. The means are
    in every checkpoint. Held-out problems have the full budget and all sets.
    """

    args: CurriculumConfig

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: CurriculumConfig | None = None,
        train_dataset: Any = None,
        **kw: Any,
    ) -> None:
        args = args or CurriculumConfig()
        super().__init__(model, reward_funcs, args, train_dataset, **kw)
        self.success = Success(args.success_memory)
        self.register_state("success_of_sets", self.success)
        self.rows_of: dict[str, list[int]] = {}
        if args.by_success:
            labels = [json.loads(data).get("set", "") for data in self.train_dataset["data"]]
            for row, label in enumerate(labels):
                self.rows_of.setdefault(label, []).append(row)
            if len(self.rows_of) < 2:
                raise ConfigError("by_success chooses between the sets of a mixture: problems.name=mixture, two sets")

    @classmethod
    def args_class(cls) -> type:
        return CurriculumConfig

    def make_sampler(self, fmt: ThinkFormat, segment: Segment, pool: PrefixPool) -> Sampler:
        whole = super().make_sampler(fmt, segment, pool)
        return Staged(whole, self.args.budget_stages) if isinstance(whole, Budgeted) else whole

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not (self.model.training and self.args.by_success):
            return super()._generate_and_score_completions(inputs)
        drawn = self.draw(len(inputs) // self.group_size)
        output = super()._generate_and_score_completions(drawn)
        rewards = self._local_rewards(len(drawn)).tolist()
        found: dict[str, list[float]] = {label: [] for label in self.rows_of}
        for row, reward in zip(drawn, rewards, strict=True):
            if reward == reward:
                found[json.loads(row["data"])["set"]].append(float(reward > 0.5))
        counts = torch.tensor([[sum(one), len(one)] for one in found.values()], device=self.accelerator.device)
        right, asked = self.accelerator.reduce(counts.float(), "sum").T.tolist()
        self.success.see(dict(zip(found, zip(right, asked, strict=True), strict=True)))
        for label, weight in self.success.weights(list(found)).items():
            self.log_metric(f"curriculum/{label}", weight)
        return output

    def draw(self, groups: int) -> list[dict[str, Any]]:
        """Rows of problems for so many groups, sets by their weights; by the global random state."""
        labels = list(self.rows_of)
        weights = torch.tensor([self.success.weights(labels)[label] for label in labels])
        rows = []
        for place in torch.multinomial(weights, groups, replacement=True).tolist():
            own = self.rows_of[labels[place]]
            row = self.train_dataset[own[int(torch.randint(len(own), ()))]]
            rows += [dict(row) for _ in range(self.group_size)]
        return rows


@dataclass(frozen=True)
class Staged:
    """Thoughts within the budget of the stage that the update belongs to; the full one in evaluation."""

    whole: Budgeted
    stages: Sequence[Sequence[int]] | None

    def sample(self, engine: Engine, request: SampleRequest) -> list[Trial]:
        if not request.training or not self.stages:
            return self.whole.sample(engine, request)
        budget = [tokens for start, tokens in self.stages if start <= request.step][-1]
        return replace(self.whole, budget=budget).sample(engine, request)


@dataclass
class Success:
    """The moving mean of each set's success, 1/2 before it was seen."""

    memory: float
    means: dict[str, float] = field(default_factory=dict)

    def see(self, found: Mapping[str, tuple[float, float]]) -> None:
        """Takes in (right, asked) of each set."""
        for label, (right, asked) in found.items():
            if asked:
                before = self.means.get(label, 0.5)
                self.means[label] = self.memory * before + (1 - self.memory) * right / asked

    def weights(self, labels: Sequence[str]) -> dict[str, float]:
        """Chances of the sets, summing to 1."""
        means = [self.means.get(label, 0.5) for label in labels]
        raw = [max(mean * (1 - mean), LEAST) for mean in means]
        return {label: one / sum(raw) for label, one in zip(labels, raw, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        return {"means": self.means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.means = dict(state["means"])
