"""TRL's `rollout_func`: the trials of a batch are sampled, segmented into episodes and probed at their boundaries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from mrt.reasoning.engines.attach import engine_of, sampling_of
from mrt.reasoning.engines.base import Counts, Engine
from mrt.reasoning.probes.run import ProbePlan, ProbeRequest, probe_trials
from mrt.reasoning.traces.prompts import ThinkFormat
from mrt.reasoning.traces.trial import Segment, Trial, read_trial
from mrt.reasoning.training.honoured import shaped
from mrt.reasoning.training.samplers import Budgeted, Plain, Sampler, SampleRequest


@dataclass
class Rollout:
    """`rollout(prompts, trainer)` -> prompt_ids, completion_ids, logprobs, trial[, env_mask].

    `spent` are the positions through the model since `take_spent`, by purpose (`sampled`, `probed`), `counts` the
    tokens since `take_counts`. `plan` None measures nothing.
    """

    fmt: ThinkFormat
    segment: Segment
    sampler: Sampler
    plan: ProbePlan | None = None
    spent: dict[str, int] = field(default_factory=lambda: {"sampled": 0, "probed": 0})
    counts: Counts = field(default_factory=Counts)

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        prompt_ids, images, multimodal = trainer._tokenize_prompts(prompts)
        if images is not None:
            raise NotImplementedError("probes read token ids only: prompts with images cannot be probed")
        logprobs = None
        if isinstance(self.sampler, Plain) and shaped(trainer.args):
            trials, logprobs = self._sample_by_trl(trainer, prompt_ids, multimodal)
        else:
            with self._counted(trainer) as engine:
                trials = self.sampler.sample(engine, self._request(trainer, prompt_ids))
                self.spent["sampled"] += engine.positions["sampled"]
        self._probe(trainer, prompt_ids, trials)
        if trainer.use_vllm and logprobs is None:
            logprobs = [trial.logprobs or [] for trial in trials]
        output = {
            "prompt_ids": prompt_ids,
            "completion_ids": [trial.completion for trial in trials],
            "logprobs": logprobs,
            "trial": trials,
        }
        if isinstance(self.sampler, Budgeted) or any(trial.chosen is not None for trial in trials):
            output["env_mask"] = [trial.chosen or [1] * len(trial.completion) for trial in trials]
        return output

    def take_counts(self) -> Counts:
        """Tokens prefilled, reused and decoded since the last call."""
        counts, self.counts = self.counts, Counts()
        return counts

    def take_spent(self) -> dict[str, int]:
        """Positions sampled and probed on this process since the last call."""
        spent, self.spent = self.spent, {"sampled": 0, "probed": 0}
        return spent

    @contextmanager
    def _counted(self, trainer: Any) -> Iterator[Engine]:
        with engine_of(trainer) as engine:
            yield engine
            self.counts += engine.counts

    def _request(self, trainer: Any, prompt_ids: list[list[int]]) -> SampleRequest:
        training = bool(trainer.model.training)
        return SampleRequest(
            prompts=prompt_ids,
            rows=trainer.rollout_rows,
            group=trainer.num_generations if training else trainer.num_generations_eval,
            limit=trainer.max_completion_length,
            sampling=sampling_of(trainer),
            keep=self.plan is not None,
            training=training,
            step=trainer.state.global_step,
        )

    def _sample_by_trl(
        self, trainer: Any, prompt_ids: list[list[int]], multimodal: Any
    ) -> tuple[list[Trial], list[list[float]] | None]:
        """Trials by TRL's own generation, for arguments that our engines do not know (min_p, generation_kwargs)."""
        size = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
        completions, logprobs = trainer._generate_single_turn(prompt_ids, None, multimodal, size)
        given, drawn = sum(map(len, prompt_ids)), sum(map(len, completions))
        self.spent["sampled"] += given + drawn
        self.counts += Counts(given, given, drawn)
        return [read_trial(ids, self.fmt, self.segment) for ids in completions], logprobs

    def _probe(self, trainer: Any, prompt_ids: list[list[int]], trials: Sequence[Trial]) -> None:
        if self.plan is None:
            return
        # The choice of boundaries follows the global random state, which checkpoints keep.
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        request = ProbeRequest(prompt_ids, trials, trainer.rollout_rows)
        with self._counted(trainer) as engine:
            probe_trials(engine, self.plan, request, generator)
            self.spent["probed"] += engine.positions["probed"]
