"""Meta-reinforcement finetuning of a language model on TRL's GRPOTrainer.

TRL samples, scores and optimises; this class only says how trials are collected (`rollout_func`), and replaces the
advantages by credit(Trials) before TRL shuffles the groups. With `credit="outcome"` the advantages are left as TRL made
them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import EarlyStoppingCallback
from trl import GRPOTrainer

from mrt.credit.grouping import check_group_size
from mrt.errors import ConfigError
from mrt.reasoning.engines.attach import sampling_of
from mrt.reasoning.engines.vllm_setup import prepare_vllm
from mrt.reasoning.probes.base import Probe
from mrt.reasoning.probes.learned import Learned
from mrt.reasoning.probes.run import ProbePlan, ProbeRequest
from mrt.reasoning.traces.prompts import ThinkFormat, think_format
from mrt.reasoning.traces.segmentation import make_segmenter
from mrt.reasoning.traces.templates import prepare_thinking
from mrt.reasoning.traces.trial import Segment
from mrt.reasoning.training.averages import Averages, summed
from mrt.reasoning.training.bonus import BonusCredit
from mrt.reasoning.training.canary import watch_syncs
from mrt.reasoning.training.choices import probe_of, sampler_of
from mrt.reasoning.training.completion_pass import CompletionRows, completion_logprobs
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.context import check_context
from mrt.reasoning.training.cost import NAMES, CostLimit, weighed
from mrt.reasoning.training.honoured import check_tools
from mrt.reasoning.training.judge import judge_with
from mrt.reasoning.training.mismatch import gathered_mismatch
from mrt.reasoning.training.mixed import PrefixPool
from mrt.reasoning.training.record import build_trials, completion_weights, rows_of
from mrt.reasoning.training.rollout import Rollout
from mrt.reasoning.training.samplers import Sampler
from mrt.reasoning.training.taught import with_answers
from mrt.reasoning.training.watch import HeldOutProver, accuracy_metrics, watch_metrics
from mrt.runs.recipe import Recipe
from mrt.training.collection import Cost
from mrt.training.mixin import TrialMixin
from mrt.trials import Trials

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is pinned by our contract test


class MRTTrainer(TrialMixin, GRPOTrainer):
    """`MRTTrainer(model, reward_funcs, args, train_dataset)` with TRL's own signatures; the probes use the same reward
    functions.

    Args: as `trl.GRPOTrainer`; `args` is an `MRTConfig`. The `gold` probe reads the columns `solutions` or `solution`.

    Raises:
        ConfigError: for a tokenizer without think tags, groups that would be split over processes, or options that
            exclude each other.
    """

    args: MRTConfig
    model: Any
    train_dataset: Any

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: MRTConfig | None = None,
        train_dataset: Any = None,
        segmenter: Any = None,
        **kwargs: Any,
    ) -> None:
        args = args or MRTConfig()
        probing = args.rollout != "plain" and kwargs.get("rollout_func") is None
        if args.use_vllm:
            prepare_vllm(args)
        check_tools(kwargs, args.rollout)
        if probing:
            kwargs["rollout_func"] = self._collect
        super().__init__(model=model, reward_funcs=reward_funcs, args=args, train_dataset=train_dataset, **kwargs)
        rows = args.per_device_train_batch_size * int(args.steps_per_generation or 1)
        check_group_size(rows, self.group_size, args.world_size)
        self.canary = watch_syncs(self, args.sync_tolerance) if self.use_vllm else None
        self.credit = BonusCredit(args.make_credit(), self.accelerator)
        self.spent = Cost(NAMES)
        self.rollout_rows: Sequence[Mapping[str, Any]] = []
        self._reward_matrix = torch.zeros(0)
        self.rollout: Rollout | None = None
        self.held_out: HeldOutProver | None = None
        self.watch_every = args.watch_every
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))
        if args.max_cost is not None:
            if self.rollout_func is None:
                raise ConfigError("max_cost counts positions: set rollout=probed (with probe=none to measure nothing)")
            self.add_callback(CostLimit(lambda: self.cost()["total"], args.max_cost))
        if probing:
            self._prepare_probes(args, segmenter)

    def _prepare_probes(self, args: MRTConfig, segmenter: Any) -> None:
        tags = prepare_thinking(self._tokenizer, args.thinking, args.think_tags)
        fmt = think_format(self._tokenizer, "paper" if args.forced_style == "paper" else "short", tags)
        fmt = replace(fmt, max_answer_tokens=args.answer_tokens or fmt.max_answer_tokens)
        check_context(self, fmt)
        segment = make_segmenter(segmenter or args.segmenter, **(args.segmenter_options or {}))
        pool = PrefixPool(args.prefix_max_age)
        plan = None
        if args.probe != "none":
            probe = self.make_probe()
            if isinstance(probe, Learned):
                self.register_state("stop_value_head", probe.head)
            plan = ProbePlan(probe, fmt, self.judge, args.schedule())
            # It looks at what each process has, when it has it: sharded weights would have to be gathered for it.
            sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
            self.held_out = HeldOutProver.of(self.model, "none" if sharded else args.held_out_prover)
        self.rollout = Rollout(fmt, segment, self.make_sampler(fmt, segment, pool), plan)
        self.register_state("prefix_pool", pool)
        self.register_state("cost", self.spent)
        self.register_state("guard_seen", self.credit)

    def make_sampler(self, fmt: ThinkFormat, segment: Segment, pool: PrefixPool) -> Sampler:
        """How the rows of a batch are sampled."""
        return sampler_of(self.args, fmt, segment, pool)

    def make_probe(self) -> Probe:
        """What measures J."""
        return probe_of(self.args, sampling_of(self))

    @property
    def group_size(self) -> int:
        """Rows that start from one prompt."""
        return int(self.num_generations or 1)

    def _collect(self, prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        assert self.rollout is not None
        return self.rollout(prompts, trainer)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        self._reward_matrix = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        return self._reward_matrix

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **others: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As TRL's, with less to compute: a prompt that rows share runs once, rows of similar length go together, the
        head sees completions only (`completion_pass`). One pass under DDP; TRL's own where there is more than text.
        """
        if compute_aux_loss or any(other is not None for other in others.values()):
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size=batch_size,
                compute_entropy=compute_entropy,
                compute_aux_loss=compute_aux_loss,
                **others,
            )
        rows = CompletionRows(input_ids, attention_mask, int(logits_to_keep))
        several = self.accelerator.num_processes > 1 and torch.is_grad_enabled()
        with self.accelerator.autocast():
            logps, entropies = completion_logprobs(model, rows, batch_size or len(input_ids), one_pass=several)
        return logps, entropies if compute_entropy else None, None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.rollout_rows = inputs
        output = super()._generate_and_score_completions(inputs)
        for name, value in gathered_mismatch(output, self.accelerator.gather).items():
            self.log_metric(name, value)
        if self.rollout is None or self.model is None:
            return output
        trials = [row["trial"] for row in inputs]
        rewards = self._local_rewards(len(inputs))
        training = bool(self.model.training)
        spent = self.rollout.take_spent()
        record = build_trials(
            output,
            trials,
            rewards,
            self.group_size if training else int(self.num_generations_eval or 1),
            prover=self.rollout.plan.probe.prover if self.rollout.plan else "none",
            keys=[str(row.get("key", "")) for row in inputs],
            spent=spent,
        )
        if not training:  # measured as in training, and no part of the run's cost
            self.rollout.take_counts()
            self._log_means(watch_metrics(record, trials, int(self.max_completion_length or 1)))
            self._log_means(accuracy_metrics(record, trials, self.args.thinking_room))
            return output
        self._count(spent, output)
        self._measure(record, trials, inputs, output)
        self.write_trials(rows_of(trials, rewards, inputs, self.state.global_step))
        weights = self.weigh(record)
        if weights is not None:
            output["advantages"] = completion_weights(weights, output["completion_ids"].shape[1]).to(rewards.dtype)
        if self.args.train_probes:
            parts, pad = int(self.args.steps_per_generation or 1), int(self._tokenizer.pad_token_id)
            output = with_answers(output, trials, self.args.train_probes, parts, pad)
            self._count({}, {name: output[name][len(inputs) :] for name in ("prompt_mask", "completion_mask")})
        return output

    def weigh(self, record: Trials) -> Tensor | None:
        """(B, T) the weights of a batch by the credit; None where TRL's advantages are these weights."""
        if self.credit.name == "outcome" and not self.args.outcome_scale:
            return None
        weights, logged = self.credit.weigh(record, self.done())
        for name, value in logged.items():
            self.log_metric(name, value)
        return weights

    def _local_rewards(self, rows: int) -> Tensor:
        """(rows,) weighted sum of the reward functions as TRL forms it, NaN where none of them could score."""
        first = self.accelerator.process_index * rows
        matrix = self._reward_matrix[first : first + rows]
        total = (matrix * self.reward_weights.to(matrix.device)).nansum(1)
        return total.masked_fill(matrix.isnan().all(1), math.nan)

    def _count(self, spent: Mapping[str, float], output: Mapping[str, Tensor]) -> None:
        """Adds what the batch cost; from here on all processes have the same totals.

        A batch of several updates is passed once more before the first of them, for its log-probabilities by then.
        """
        positions = int(output["prompt_mask"].sum() + output["completion_mask"].sum())
        self.spent.add(**spent, updated=positions * self.num_iterations)
        self.spent.add(sampled=positions * ("old_per_token_logps" in output))
        self.spent.sum_up(lambda values: summed(values, self.accelerator))
        for name, value in self.cost().items():
            self.log_total(f"cost/{name}", value)

    def _measure(self, record: Any, trials: Any, inputs: Any, output: Any) -> None:
        """Logs progress, regret, probe, verifier and watch metrics of all processes."""
        assert self.rollout is not None
        self._log_means(watch_metrics(record, trials, int(self.max_completion_length or 1)))
        for name, value in self.rollout.take_counts().metrics(self.accelerator).items():
            self.log_metric(name, value)
        plan = self.rollout.plan
        if self.held_out is not None and plan is not None and self.state.global_step % self.watch_every == 0:
            masks = zip(output["prompt_ids"], output["prompt_mask"], strict=True)
            request = ProbeRequest([ids[mask.bool()].tolist() for ids, mask in masks], trials, inputs)
            self._log_means(self.held_out.look(plan, self.model, request, self._tokenizer.pad_token_id))

    def _log_means(self, found: Averages) -> None:
        for name, value in found.means(self.accelerator).items():
            self.log_metric(name, value)

    def done(self) -> float:
        """How far training has come, from 0 to 1: in cost where `max_cost` ends it, else in updates."""
        limit = self.args.max_cost
        spent = self.cost()["total"] / limit if limit else self.state.global_step / max(self.state.max_steps, 1)
        return min(1.0, spent)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """As in transformers; with `max_cost` and the linear schedule, linear in the cost."""
        if self.args.max_cost is None or self.args.lr_scheduler_type != "linear":
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda _: 1.0 - self.done())  # type: ignore[arg-type]
        return self.lr_scheduler

    def cost(self) -> dict[str, int]:
        """Positions through the model so far, of all processes: sampled 1, probed 1, updated 3 each in `total`."""
        return weighed(self.spent)

    def judge(
        self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str], completion_ids: Sequence[Sequence[int]]
    ) -> list[float | None]:
        """Rewards of forced answers by the trainer's own reward functions, weighted as in training."""
        return judge_with(self, rows, completions, completion_ids)

    @classmethod
    def args_class(cls) -> type:
        return MRTConfig

    @classmethod
    def from_recipe(cls, recipe: Recipe, output_dir: Path) -> MRTTrainer:
        """The trainer that a recipe describes: its problems, their reward, its model and its adapter."""
        from mrt.reasoning.training.from_recipe import parts_of

        return cls(**parts_of(recipe, output_dir, cls.args_class()))
