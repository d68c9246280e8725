"""Meta-reinforcement finetuning of a language model on TRL's GRPOTrainer.

TRL samples, scores and optimises; this class only says how trials are collected (`rollout_func`), and replaces the
advantages by credit(Trials) before TRL shuffles the groups. With `credit="outcome"` the advantages are left as TRL made
them.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from trl import GRPOTrainer

from mrt.credit.grouping import check_group_size
from mrt.credit.guard import check_bonus
from mrt.errors import ConfigError
from mrt.reasoning.engines.vllm_backends import prepare_vllm
from mrt.reasoning.models.loading import check_model
from mrt.reasoning.probes.table import make_probe
from mrt.reasoning.traces.prompts import think_format
from mrt.reasoning.traces.segmentation import make_segmenter
from mrt.reasoning.training.canary import watch_syncs
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.cost import CostLimit, CostState
from mrt.reasoning.training.mismatch import gathered_mismatch
from mrt.reasoning.training.record import build_trials, completion_weights, rows_of
from mrt.reasoning.training.rollout import PrefixPool, Rollout
from mrt.reasoning.training.watch import HeldOutProver, watch_metrics
from mrt.runs.recipe import Recipe
from mrt.training.mixin import TrialMixin

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is pinned by our contract test


BUCKET = 16  # rows of similar length that go through the loss together


class MRTTrainer(TrialMixin, GRPOTrainer):
    """`MRTTrainer(model, reward_funcs, args, train_dataset)` with TRL's own signatures; the probes use the same reward
    functions.

    Args: as `trl.GRPOTrainer`; `args` is an `MRTConfig`. The `gold` probe reads the columns `solutions` or `solution`.

    Raises:
        ConfigError: for a tokenizer without think tags, groups that would be split over processes, or options that
            exclude each other.
    """

    args: MRTConfig

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
        if probing:
            kwargs["rollout_func"] = self._collect
        super().__init__(model=model, reward_funcs=reward_funcs, args=args, train_dataset=train_dataset, **kwargs)
        rows = args.per_device_train_batch_size * int(args.steps_per_generation or 1)
        check_group_size(rows, self.group_size, args.world_size)
        self.canary = watch_syncs(self, args.sync_tolerance) if self.use_vllm else None
        self.credit = args.make_credit()
        self.rollout_rows: Sequence[Mapping[str, Any]] = []
        self._reward_matrix = torch.zeros(0)
        self._guarded = False
        self.rollout: Rollout | None = None
        self.held_out: HeldOutProver | None = None
        self.updated, self.watch_every = 0, args.watch_every
        if args.max_cost is not None:
            if self.rollout_func is None:
                raise ConfigError("max_cost counts positions: set rollout=probed (with probe=none to measure nothing)")
            self.add_callback(CostLimit(self, args.max_cost))
        if probing:
            self._prepare_probes(args, segmenter)

    def _prepare_probes(self, args: MRTConfig, segmenter: Any) -> None:
        fmt = think_format(self._tokenizer, "paper" if args.forced_style == "paper" else "short")
        segment = make_segmenter(segmenter or args.segmenter, **(args.segmenter_options or {}))
        probe = None if args.probe == "none" else make_probe(args.probe, args.probe_samples, args.probe_tolerance)
        pool = PrefixPool(args.prefix_max_age)
        how = (args.schedule(), args.rollout, args.train_forced, args.thinking_budget)
        self.rollout = Rollout(fmt, segment, self.judge, probe, *how, pool)
        if probe is not None:
            # It looks at what each process has, when it has it: sharded weights would have to be gathered for it.
            sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
            self.held_out = HeldOutProver.of(self.model, "none" if sharded else args.held_out_prover)
        self.register_state("prefix_pool", pool)
        self.register_state("cost", CostState(self))

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
        """As TRL's, on rows of similar length at a time: what they are padded to is not computed.

        One pass where rows are few, where there is more than text, and under DDP (one backward for each forward).
        """
        rows = len(input_ids)
        whole = (input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, compute_aux_loss)
        shared = self.accelerator.num_processes > 1 and torch.is_grad_enabled()
        if rows <= BUCKET or shared or compute_aux_loss or any(other is not None for other in others.values()):
            return super()._get_per_token_logps_and_entropies(model, *whole, **others)
        lengths = attention_mask[:, -logits_to_keep:].sum(1)
        order, prompt = lengths.argsort(), input_ids.shape[1] - logits_to_keep
        logps, entropies = [], []
        for chosen in order.split(min(BUCKET, batch_size or rows)):
            width = max(1, int(lengths[chosen[-1]]))
            part = (input_ids[chosen, : prompt + width], attention_mask[chosen, : prompt + width], width)
            one, entropy, _ = super()._get_per_token_logps_and_entropies(model, *part, compute_entropy=compute_entropy)
            logps.append(nn.functional.pad(one, (0, logits_to_keep - width)))
            if entropy is not None:
                entropies.append(nn.functional.pad(entropy, (0, logits_to_keep - width)))
        back = order.argsort()
        return torch.cat(logps)[back], torch.cat(entropies)[back] if entropies else None, None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.rollout_rows = inputs
        output = super()._generate_and_score_completions(inputs)
        for name, value in gathered_mismatch(output, self.accelerator.gather).items():
            self.log_metric(name, value)
        if self.rollout is None or self.model is None or not self.model.training:
            return output
        trials = [row["trial"] for row in inputs]
        rewards = self._local_rewards(len(inputs))
        keys = [str(row.get("key", "")) for row in inputs]
        prover = self.rollout.probe.prover if self.rollout.probe else "none"
        record = build_trials(output, trials, rewards, self.group_size, prover, keys)
        self._measure(record, trials, inputs, output)
        self.write_trials(rows_of(trials, rewards, inputs, self.state.global_step))
        if self.credit.name != "outcome":
            weights = self._credited(record)
            output["advantages"] = completion_weights(weights, output["completion_ids"].shape[1]).to(rewards.dtype)
        return output

    def _credited(self, record: Any) -> Tensor:
        """Credit of the batch; the cancellation guard looks at the first batches until one could tell."""
        fraction = self.done()
        weights = self.credit(record, fraction, self.accelerator.gather)
        alpha = self.credit.alpha(fraction)
        if alpha:
            from mrt.credit.outcome import outcome

            base = outcome(record, scale=self.credit.options["scale"], gather=self.accelerator.gather)
            bonus = (weights - base) / alpha
            if not self._guarded:
                left = check_bonus(record, base, bonus)
                self._guarded = not math.isnan(left)
            else:
                from mrt.credit.guard import effective_std

                stds = effective_std(record, base, bonus)
                left = float(stds[~stds.isnan()].mean())
            self.log_metric("progress/effective_std", left)
            self.log_metric("progress/alpha", alpha)
        return weights

    def _local_rewards(self, rows: int) -> Tensor:
        """(rows,) weighted sum of the reward functions as TRL forms it, NaN where none of them could score."""
        first = self.accelerator.process_index * rows
        matrix = self._reward_matrix[first : first + rows]
        total = (matrix * self.reward_weights.to(matrix.device)).nansum(1)
        return total.masked_fill(matrix.isnan().all(1), math.nan)

    def _measure(self, record: Any, trials: Any, inputs: Any, output: Any) -> None:
        """Logs progress, regret, probe, verifier and watch metrics, and what the batch cost."""
        assert self.rollout is not None
        positions = int(output["prompt_mask"].sum() + output["completion_mask"].sum())
        self.updated += positions * self.num_iterations
        metrics = watch_metrics(record, trials, int(self.max_completion_length or 1))
        metrics |= self.rollout.take_counts().metrics(self.accelerator)
        for name, spent in self.cost().items():
            self.log_total(f"cost/{name}", spent)
        if self.held_out is not None and self.state.global_step % self.watch_every == 0:
            metrics |= self.held_out.look(self.rollout, self.model, record, trials, inputs, output, self._tokenizer)
        for name, value in metrics.items():
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
        """Positions through the model so far: sampled 1, probed 1, updated 3 each in `total`."""
        spent = dict(self.rollout.cost) if self.rollout else {"sampled": 0, "probed": 0}
        return {**spent, "updated": self.updated, "total": sum(spent.values()) + 3 * self.updated}

    def judge(
        self, rows: Sequence[Mapping[str, Any]], completions: Sequence[str], completion_ids: Sequence[Sequence[int]]
    ) -> list[float | None]:
        """Rewards of forced answers by the trainer's own reward functions, weighted as in training."""
        chat = isinstance(rows[0]["prompt"], list)
        texts: list[Any] = [[{"role": "assistant", "content": text}] if chat else text for text in completions]
        skipped = ("prompt", "completion", "completion_ids", "trial")
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0] if name not in skipped}
        prompts = [row["prompt"] for row in rows]
        columns |= {"trainer_state": self.state, "log_extra": _ignore, "log_metric": _ignore}
        total: list[float | None] = [None] * len(rows)
        for function, weight in zip(self.reward_funcs, self.reward_weights.tolist(), strict=True):
            if isinstance(function, nn.Module) or not callable(function):
                raise ConfigError("probes cannot call a reward model: use a reward function, or probe='gold'")
            ids = [list(one) for one in completion_ids]
            rewards = function(prompts=prompts, completions=texts, completion_ids=ids, **columns)
            if inspect.isawaitable(rewards):
                rewards = asyncio.run(_wait(rewards))
            for i, reward in enumerate(rewards):
                if reward is not None:
                    total[i] = (total[i] or 0.0) + weight * reward
        return total

    @classmethod
    def args_class(cls) -> type:
        return MRTConfig

    @classmethod
    def from_recipe(cls, recipe: Recipe, output_dir: Path) -> MRTTrainer:
        """The trainer that a recipe describes: its problems, their reward, its model and its adapter."""
        from mrt.reasoning.problems import load_problems, to_dataset, validate
        from mrt.reasoning.problems.reward import ProblemReward

        args = recipe.build_args(MRTConfig, output_dir)
        problems = load_problems(**recipe.problems)
        validate(problems, "train")
        peft = None
        if recipe.peft is not None:
            from peft import LoraConfig

            peft = LoraConfig(task_type="CAUSAL_LM", **recipe.peft)
        return cls(
            model=check_model(recipe.model),
            reward_funcs=ProblemReward(problems, opened=True),
            args=args,
            train_dataset=to_dataset(problems, "train"),
            peft_config=peft,
        )


def _ignore(*_: Any) -> None:
    """Forced answers leave no trace in the completions table or the verifier's shares."""


async def _wait(rewards: Any) -> Any:
    return await rewards
