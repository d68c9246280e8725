"""The trainer life cycle: tasks -> collect -> credit -> loss, inside `transformers.Trainer`'s outer loop.

A system says how it collects and where its log-probabilities come from; arguments, callbacks, trackers, checkpoints,
several processes and the progress bar come from the loop. One step of the loop is one update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from mrt.credit.table import Credit
from mrt.errors import ConfigError
from mrt.optim.learners import CompositeOptimizer, Learner, accumulate_own
from mrt.tasks import IndexDataset, Task, TaskDistribution
from mrt.training.mixin import TrialArguments, TrialMixin
from mrt.trials import Trials


@dataclass
class TrialConfig(TrialArguments, TrainingArguments):  # type: ignore[misc]
    """Arguments of a `TrialTrainer`. `per_device_train_batch_size` counts tasks."""

    num_tasks: int = field(default=0, metadata={"help": "size of an epoch in tasks; 0 draws new tasks in every step"})
    group_size: int = field(default=0, metadata={"help": "trials that each group has to hold; 0 leaves it open"})

    def __post_init__(self) -> None:
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
        self._collected: Trials | None = None
        self.cost: dict[str, float] = {}
        self.register_state("cost", (lambda: dict(self.cost), self.cost.update))

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

    def losses(self, trials: Trials, weights: Tensor) -> dict[str, Tensor]:
        """{learner: scalar loss}; a learner that is left out is not due in this update.

        The default is the policy gradient -mean(weights * log pi(a|history)) over the steps in `mask`.
        """
        mask = trials.mask.float()
        return {"policy": -(weights * self.logprobs(trials) * mask).sum() / mask.sum().clamp(min=1)}

    def update(self, trials: Trials) -> bool:
        """For systems without a loss (TRPO, ES, Reptile): sets the parameters by itself and returns True.

        Gradients are to be None when it returns; the loop's optimiser then has nothing to do. Parameters that are not
        finite are put back and the update counts as dropped.
        """
        return False

    def next_trials(self, indices: Sequence[int]) -> Trials:
        """The trials of one update: by default new ones on the tasks at `indices`, recorded.

        Who learns several times from what was collected once overrides this, and keeps the rest by `register_state`.
        """
        tasks = [self.tasks.sample(self.args.seed, index) for index in indices]
        with torch.no_grad():
            trials = self.collect(tasks)
        self.record(trials)
        return trials

    def learners(self) -> dict[str, Learner]:
        """Several learners, each with its own optimiser; {} for the one optimiser that the arguments describe."""
        return {}

    # The loop.

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        trials = self._collected = self.next_trials(inputs["index"].tolist())
        composite = self._composite()
        before = None if type(self).update is TrialTrainer.update else [p.detach().clone() for p in model.parameters()]
        if self.update(trials):
            value = self._finite_or_back(model, before or [])
        elif composite is None:
            return sum(self.losses(trials, self.weigh(trials)).values())
        else:
            with self.accelerator.no_sync(model) if self.args.world_size > 1 else nullcontext():
                losses = self.losses(trials, self.weigh(trials))
                scale = self.current_gradient_accumulation_steps
                accumulate_own({k: v / scale for k, v in losses.items()}, composite.learners, self._mean_over_ranks)
            composite.due |= set(losses)
            value = torch.stack([loss.detach() for loss in losses.values()]).sum()
        return value + torch.zeros((), device=value.device, requires_grad=True)  # gradients are set: none from here

    def weigh(self, trials: Trials) -> Tensor:
        """(B, T) the credit of every step, zero where there is none to give."""
        if self.credit is None:
            raise ConfigError(f"{type(self).__name__} weighs steps but was given no credit")
        if isinstance(self.credit, Credit):
            fraction = self.state.global_step / max(self.state.max_steps, 1)
            return self.credit(trials, fraction, self.accelerator.gather)
        return self.credit(trials)

    def offending_batch(self, inputs: Any) -> dict[str, Any]:
        """The indices of the tasks, and the trials that were played on them."""
        trials = {entry.name: getattr(self._collected, entry.name) for entry in fields(Trials)}
        return super().offending_batch(inputs) | {"trials": trials}

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
        values = {**trial_metrics(trials)}
        totals = {name: float(value.sum()) for name, value in trials.cost.items()}
        if self.args.world_size > 1:
            values = _across(self.accelerator.gather, values, torch.nanmean, self.args.device)
            totals = _across(self.accelerator.gather, totals, torch.sum, self.args.device)
        for name, total in totals.items():
            self.cost[name] = self.cost.get(name, 0.0) + total
            self.log_total(f"cost/{name}", self.cost[name])
        for name, value in values.items():
            self.log_metric(name, value)
        if self.args.write_trials:
            written = trials if self.rows_written is None else trials.rows(slice(self.rows_written))
            self.write_trials(_rows(written, self.state.global_step))


def trial_metrics(trials: Trials) -> dict[str, float]:
    """Means over a batch: reward; progress/* and regret/stop where stop values are; regret/* where `privileged` knows.

    It may hold `oracle` (B,) J* of one episode, and `floor` (B,) a random policy's. With a floor regret is sum(J* - J)
    over the batch divided by sum(J* - floor): 0 plays as the oracle, 1 as the floor. Without it, it is the gap summed
    over a trial, averaged over trials.
    """
    from mrt.metrics import regret as metrics

    values = {"reward": _mean(trials.returns)}
    tables = {}
    if trials.stop_values is not None:
        stop_values = trials.stop_values.detach().cpu().double().numpy()
        steps = metrics.progress(stop_values)
        measured = steps[~np.isnan(steps)]
        if len(measured):
            values |= {"progress/mean": float(measured.mean()), "progress/negative_rate": float((measured < 0).mean())}
        tables["regret/stop"] = (stop_values, 1)
    oracle, floor = trials.privileged.get("oracle"), trials.privileged.get("floor")
    if oracle is None:
        return values
    tables["regret/return"] = (episode_returns(trials).cpu().double().numpy(), 0)
    best = oracle.cpu().double().numpy()[:, None]
    for name, (table, first) in tables.items():
        lost = np.nansum(metrics.cumulative_regret(table, best, first))
        if floor is not None:  # over the whole batch: a row whose oracle and floor are close would drown the others
            worst = np.where(np.isnan(table), np.nan, floor.cpu().double().numpy()[:, None])
            span = np.nansum(metrics.cumulative_regret(worst, best, first))
            values[name] = float(lost / span) if span > 0 else float("nan")
        else:
            values[name] = float(lost / len(trials))
    return values


def episode_returns(trials: Trials) -> Tensor:
    """(B, K) undiscounted return of each episode, NaN beyond the last one of a row."""
    width = int(trials.episodes.max()) if len(trials) else 0
    inside = trials.episode >= 0
    returns = trials.rewards.new_zeros(len(trials), width)
    returns.scatter_add_(1, trials.episode.clamp(min=0), torch.where(inside, trials.rewards, 0.0))
    beyond = torch.arange(width, device=returns.device) >= trials.episodes[:, None]
    return returns.masked_fill(beyond, torch.nan)


def check_groups(group: Tensor, expected: int) -> None:
    """Every group (B,) of a batch is to be whole.

    Raises:
        ConfigError: naming a group that is not, and the sizes that would divide the batch.
    """
    ids, sizes = torch.unique(group, return_counts=True)
    wrong = sizes != expected
    if wrong.any():
        valid = [size for size in range(1, len(group) + 1) if len(group) % size == 0]
        raise ConfigError(
            f"group {int(ids[wrong][0])} has {int(sizes[wrong][0])} rows in this process instead of {expected}: "
            f"groups may not be split. Valid sizes for {len(group)} rows are {valid}"
        )


def _rows(trials: Trials, step: int) -> list[dict[str, Any]]:
    returns, episodes = trials.returns.tolist(), trials.episodes.tolist()
    values = trials.stop_values.tolist() if trials.stop_values is not None else None
    rows = []
    for i, reward in enumerate(returns):
        row = {"step": step, "key": trials.task_keys[i] if trials.task_keys else "", "group": int(trials.group[i])}
        row |= {"reward": reward, "episodes": episodes[i], "stop": int(trials.trial_stop[i])}
        rows.append(row | ({"stop_values": values[i][: episodes[i] + 1]} if values else {}))
    return rows


def _mean(values: Tensor) -> float:
    kept = values[~values.isnan()]
    return float(kept.double().mean()) if len(kept) else float("nan")


def _across(
    gather: Callable[[Tensor], Tensor], values: Mapping[str, float], join: Callable[..., Tensor], device: torch.device
) -> dict[str, float]:
    """`values` of every process joined name by name."""
    if not values:
        return {}
    mine = torch.tensor([list(values.values())], device=device, dtype=torch.float32)
    return dict(zip(values, join(gather(mine), dim=0).tolist(), strict=True))


def _collate(rows: Sequence[Mapping[str, int]]) -> dict[str, Tensor]:
    return {"index": torch.tensor([row["index"] for row in rows])}
