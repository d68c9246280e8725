"""The trainer life cycle: tasks -> collect -> credit -> loss, inside `transformers.Trainer`'s outer loop.

A system says how it collects and where its log-probabilities come from; arguments, callbacks, trackers, checkpoints,
several processes and the progress bar come from the loop. One step of the loop is one update.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import DistributedType, set_seed
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from mrt.credit.table import Credit
from mrt.errors import ConfigError
from mrt.optim.learners import CompositeOptimizer, Learner, accumulate_own
from mrt.tasks import IndexDataset, Task, TaskDistribution
from mrt.training.collection import Batch, Cost
from mrt.training.mixin import TrialArguments, TrialMixin
from mrt.training.records import check_groups, trial_metrics, trial_rows
from mrt.trials import Trials


@dataclass
class TrialConfig(TrialArguments, TrainingArguments):  # type: ignore[misc]
    """Arguments of a `TrialTrainer`. `per_device_train_batch_size` counts tasks."""

    num_tasks: int = field(default=0, metadata={"help": "size of an epoch in tasks; 0 draws new tasks in every step"})
    group_size: int = field(default=0, metadata={"help": "trials that each group has to hold; 0 leaves it open"})
    updates_per_step: int = field(
        default=1, metadata={"help": "updates in one step of the outer loop, which counts, logs and saves steps"}
    )

    def __post_init__(self) -> None:
        if self.updates_per_step < 1:
            raise ConfigError(f"updates_per_step={self.updates_per_step} must be at least 1")
        if self.updates_per_step > 1 and (self.num_tasks or self.gradient_accumulation_steps > 1):
            raise ConfigError("updates_per_step above 1 goes with num_tasks=0 and gradient_accumulation_steps=1 only")
        if self.num_tasks == 0:
            if self.max_steps <= 0:
                raise ConfigError("num_tasks=0 draws new tasks in every step and needs max_steps; or give num_tasks")
            self.train_sampling_strategy = "sequential"
        super().__post_init__()


class TrialTrainer(TrialMixin, Trainer):
    """Meta-RL as one loop. A subclass gives `collect`, and `logprobs`, `losses` or `update`.

    Args:
        model: one module that holds every learner.
        tasks: p(M); task i of a run is `tasks.sample(args.seed, i)`, so a resumed run sees the same ones.
        credit: maps `Trials` to weights (B, T); a `mrt.credit.table.Credit` is also told how far training has come.

    Under DDP a differentiable pass has to go through `self.model_wrapped`, or its gradients are not synchronised.
    """

    args: TrialConfig
    rows_written: int | None = None  # trials of a batch that go to trials.jsonl; None for all
    _number = 0  # of the update within a step of the outer loop

    def __init__(
        self,
        model: nn.Module,
        args: TrialConfig,
        tasks: TaskDistribution,
        credit: Callable[[Trials], Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        a_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        dataset = IndexDataset(args.num_tasks or args.max_steps * a_step)
        super().__init__(model=model, args=args, train_dataset=dataset, data_collator=_collate, **kwargs)
        set_seed(args.seed, device_specific=True)  # processes that collect draw different numbers
        self.tasks, self.credit = tasks, credit
        self._batch: Any = None
        self.cost = Cost()
        self.register_state("cost", self.cost)

    @classmethod
    def args_class(cls) -> type:
        return TrialConfig

    # What a system defines.

    def collect(self, tasks: Sequence[Task]) -> Trials:
        """Plays one batch of trials, without gradients. `group` tells the tasks apart."""
        raise NotImplementedError(f"{type(self).__name__} has to define collect(tasks)")

    def logprobs(self, trials: Trials) -> Tensor:
        """(B, T) log-probabilities of the actions under the current policy, with gradients."""
        raise NotImplementedError(f"{type(self).__name__} has to define logprobs(trials), losses or update")

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """{learner: scalar loss} of what `next_batch` returned; a learner that is left out is not due in this update.

        The default is the policy gradient -mean(weights * log pi(a|history)) over the steps in `mask` of a `Batch`.
        """
        if self.credit is None:
            raise ConfigError(f"{type(self).__name__} weighs steps but was given no credit")
        mask = batch.trials.mask.float()
        gain = (batch.weights * self.logprobs(batch.trials) * mask).sum()
        return {"policy": -gain / mask.sum().clamp(min=1)}

    def update(self, batch: Any) -> bool:
        """For systems without a loss (TRPO, ES, Reptile): sets the parameters by itself and returns True.

        Gradients must be None when it returns; the loop's optimiser then has nothing to do. Parameters that are not
        finite are put back and the update counts as dropped.
        """
        return False

    def next_batch(self, indices: Sequence[int]) -> Any:
        """What one update learns from: by default a `Batch` of new trials on the tasks at `indices`, recorded.

        A trainer that learns several times from one collection, or from a replay, overrides this and keeps the rest by
        `register_state`; whatever it returns goes to `losses` and `update`.
        """
        tasks = [self.tasks.sample(self.args.seed, index) for index in indices]
        with torch.no_grad():
            trials = self.collect(tasks)
        return self._recorded(trials)

    def _recorded(self, trials: Trials) -> Batch:
        self.record(trials)
        return Batch(trials, trials.mask.float() if self.credit is None else self.weigh(trials))

    def learners(self) -> dict[str, Learner]:
        """Several learners, each with its own optimiser; {} for the one optimiser that the arguments describe."""
        return {}

    # The loop.

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """`updates_per_step` updates: all but the last are whole ones of our own, the last is the outer loop's."""
        updates = self.args.updates_per_step
        if updates == 1:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        index, size = inputs["index"], self.args.train_batch_size
        # Every update of a run meets indices of its own.
        table = (index // size * updates + torch.arange(updates)[:, None]) * size + index % size
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for self._number, row in enumerate(table[:-1]):
            self._whole_update(model, {**inputs, "index": row}, parameters)
        self._number = updates - 1
        return super().training_step(model, {**inputs, "index": table[-1]}, num_items_in_batch)

    def _whole_update(self, model: nn.Module, inputs: Any, parameters: Sequence[nn.Parameter]) -> None:
        optimizer: Any = self.optimizer
        limit = self.args.max_grad_norm
        if self._is_plain and self._composite() is None:
            loss = self.compute_loss(model, inputs)
            loss.backward()
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            if math.isfinite(float(norm + loss.detach())):  # else, or where a square overflows, `check_update` looks
                self._guard().consecutive = 0
                if limit and float(norm) > limit - 1e-3:  # below it the gradients would be multiplied by 1
                    nn.utils.clip_grads_with_norm_(parameters, limit, norm)
                inner = getattr(optimizer, "optimizer", optimizer)  # accelerate looks for libraries at every step
                inner.step()
                inner.zero_grad()
                return
        else:
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, inputs)
            self.accelerator.backward(loss)
        if self.check_update(model, inputs, loss):
            if limit:
                self._clip_grad_norm(model)
            optimizer.step()
        optimizer.zero_grad()

    @functools.cached_property
    def _is_plain(self) -> bool:
        """One process, one device, full precision: nothing stands between a loss and its gradients."""
        single = self.accelerator.distributed_type == DistributedType.NO and self.args.n_gpu <= 1
        return single and self.accelerator.mixed_precision == "no" and not self.accelerator.has_lomo_optimizer

    def log_is_due(self, updates: int = 1) -> bool:
        """Whether the next log comes within so many updates."""
        every, each = max(int(self.args.logging_steps), 1), self.args.updates_per_step
        return (every - self.state.global_step % every) * each - self._number <= updates

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        batch = self._batch = self.next_batch(inputs["index"].tolist())
        own_update = type(self).update is not TrialTrainer.update
        before = [p.detach().clone() for p in model.parameters()] if own_update else []
        if self.update(batch):
            return self._no_gradient(self._finite_or_back(model, before))
        composite = self._composite()
        if composite is None:
            return functools.reduce(torch.add, self.losses(batch).values())
        return self._no_gradient(self._losses_of_many(model, batch, composite))

    def _losses_of_many(self, model: nn.Module, batch: Any, composite: CompositeOptimizer) -> Tensor:
        """Each learner's gradients from its own loss alone; returns the sum of the losses."""
        with self.accelerator.no_sync(model) if self.args.world_size > 1 else nullcontext():
            losses = self.losses(batch)
            scale = self.current_gradient_accumulation_steps
            accumulate_own({k: v / scale for k, v in losses.items()}, composite.learners, self._mean_over_ranks)
        composite.due |= set(losses)
        return torch.stack([loss.detach() for loss in losses.values()]).sum()

    @staticmethod
    def _no_gradient(value: Tensor) -> Tensor:
        """A loss for the outer loop's backward pass that adds nothing to the gradients: they are set already."""
        return value + torch.zeros((), device=value.device, requires_grad=True)

    def weigh(self, trials: Trials) -> Tensor:
        """(B, T) the credit of every step, zero where there is none to give."""
        if self.credit is None:
            raise ConfigError(f"{type(self).__name__} weighs steps but was given no credit")
        if isinstance(self.credit, Credit):
            fraction = self.state.global_step / max(self.state.max_steps, 1)
            return self.credit(trials, fraction, self.accelerator.gather)
        return self.credit(trials)

    def offending_batch(self, inputs: Any) -> dict[str, Any]:
        """The indices of the tasks, and what was learned from."""
        batch = self._batch
        return super().offending_batch(inputs) | (batch.to_tree() if isinstance(batch, Batch) else {"batch": batch})

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The composite of all learners where there are several, else what the arguments describe.

        Raises:
            ConfigError: for several learners under FSDP, DeepSpeed or fp16, which scale and shard one optimiser only.
        """
        learners = self.learners() if self.optimizer is None else {}
        if learners:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled or self.args.fp16:
                raise ConfigError("several learners cannot train under FSDP, DeepSpeed or fp16: use DDP and float32")
            self.optimizer = CompositeOptimizer(learners)
        return super().create_optimizer(model)

    def _composite(self) -> CompositeOptimizer | None:
        inner = getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate wraps it
        return inner if isinstance(inner, CompositeOptimizer) else None

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        composite = self._composite()
        return composite.clip(self.args.max_grad_norm) if composite else super()._clip_grad_norm(model)

    def _mean_over_ranks(self, value: Tensor) -> Tensor:
        return self.accelerator.reduce(value, "mean") if self.args.world_size > 1 else value

    def _finite_or_back(self, model: nn.Module, before: Sequence[Tensor]) -> Tensor:
        if all(bool(torch.isfinite(p).all()) for p in model.parameters()):
            return torch.zeros((), device=self.args.device)
        with torch.no_grad():
            for parameter, old in zip(model.parameters(), before, strict=True):
                parameter.copy_(old)
        return torch.full((), torch.nan, device=self.args.device)  # the guard counts it and writes the batch out

    # What is written.

    def record(self, trials: Trials) -> None:
        """Logs reward, progress, regret and cost of a batch, and writes its trials (all, or `rows_written` of them)."""
        if self.args.group_size:
            check_groups(trials.group, self.args.group_size)
        values = trial_metrics(trials)
        self.spend(trials)
        if self.args.world_size > 1:
            values = self._means_across(values)
        for name, value in values.items():
            self.log_metric(name, value)
        if self.args.write_trials:
            written = trials if self.rows_written is None else trials.rows(slice(self.rows_written))
            self.write_trials(trial_rows(written, self.state.global_step))

    def spend(self, trials: Trials) -> None:
        """Adds what a batch has cost to the totals of the run; every process calls it."""
        self.cost.add(**{name: float(value.sum()) for name, value in trials.cost.items()})
        for name, total in self.cost.sum_up(self._sum_across if self.args.world_size > 1 else None).items():
            self.log_total(f"cost/{name}", total)

    def _means_across(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean of every value over all processes, NaN left out."""
        mine = torch.tensor([list(values.values())], device=self.args.device, dtype=torch.float32)
        return dict(zip(values, torch.nanmean(self.accelerator.gather(mine), dim=0).tolist(), strict=True))

    def _sum_across(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values.to(self.args.device), "sum").cpu()


def _collate(rows: Sequence[Mapping[str, int]]) -> dict[str, Tensor]:
    return {"index": torch.tensor([row["index"] for row in rows])}
