"""`TrialMixin`: what all trainers share, whichever trainer class comes after it in the bases.

    class MRTTrainer(TrialMixin, trl.GRPOTrainer)
    class WarmStartTrainer(TrialMixin, trl.SFTTrainer)
    class TrialTrainer(TrialMixin, transformers.Trainer)

Checkpoints are whole or not there, a resumed run ends bit for bit where an uninterrupted one does, updates that are not
finite never reach the weights, and metrics.jsonl and trials.jsonl say what happened.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mrt.errors import CheckpointError, ConfigError
from mrt.runs.tracking import METRICS, TRIALS, check_trackers, tracker_ids, trackers
from mrt.training import checkpoint as ckpt
from mrt.training.finite import FiniteGuard, finite
from mrt.training.saving import SavingMixin
from mrt.training.windows import window_means

Behind: Any = object  # transformers.TrainingArguments, or TRL's, by the time it runs
logger = logging.getLogger(__name__)

BAD = "bad_batches"


@dataclass
class TrialArguments(Behind):
    """Arguments that `TrialMixin` reads, and the defaults that differ from those of transformers and TRL.

    Use it first among the bases: `class MRTConfig(TrialArguments, GRPOConfig)`.
    """

    max_skipped_steps: int = field(
        default=10, metadata={"help": "consecutive updates that may be dropped as not finite"}
    )
    write_trials: bool = field(default=True, metadata={"help": "write every sampled trial to trials.jsonl"})
    auto_resume: bool = field(default=False, metadata={"help": "train() resumes from the newest whole checkpoint"})
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints kept: at least 2, None for all"})
    data_seed: int | None = field(default=None, metadata={"help": "seed of the order of the data; `seed` when None"})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "learning rate schedule"})
    logging_steps: float = field(default=1, metadata={"help": "updates between two logs"})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "hide losses that are not finite"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "drop columns that the model does not take"})
    restore_callback_states_from_checkpoint: bool = field(default=True, metadata={"help": "resume callbacks too"})
    bf16: bool | None = field(default=False, metadata={"help": "bfloat16 mixed precision"})
    gradient_checkpointing: bool | None = field(default=None, metadata={"help": "recompute activations"})
    hub_private_repo: bool | None = field(default=True, metadata={"help": "what is pushed to the hub is private"})

    def __post_init__(self) -> None:
        if self.save_total_limit is not None and self.save_total_limit < 2:
            raise ConfigError(
                f"save_total_limit={self.save_total_limit} must be at least 2, because one may be damaged"
            )
        if self.max_skipped_steps < 1:
            raise ConfigError(f"max_skipped_steps={self.max_skipped_steps} must be at least 1")
        if getattr(self, "enable_jit_checkpoint", False):  # inside an update, on each process at another time
            raise ConfigError(
                "enable_jit_checkpoint saves what no run can resume exactly: name a file in MRT_STOP_FILE"
            )
        if self.data_seed is None:  # or else the order of the data depends on who seeded torch last
            self.data_seed = self.seed
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False
        super().__post_init__()


class TrialMixin(SavingMixin):
    """Cooperative: first in the bases, every method calls its super.

    A subclass keeps what it needs over a resume with `register_state`, says what it sampled with `write_trials` and
    what it measured with `log_metric`.
    """

    _finite_guard: FiniteGuard | None = None
    _session_start = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for given in (*args, *kwargs.values()):  # among them the training arguments, wherever the trainer has them
            check_trackers(getattr(given, "report_to", ()))
        super().__init__(*args, **kwargs)

    # What a subclass uses.

    def log_metric(self, name: str, value: float) -> None:
        """Adds a value to the mean that the next log reports; NaN counts as not measured.

        A log is the mean over all processes; before TRL's trainers, which log for the main one, pass gathered values.
        """
        self._windows()["train" if self.model.training else "eval"][name].append(float(value))

    def log_total(self, name: str, value: float) -> None:
        """Makes the next log report this value itself: for counters, whose mean over the window is meaningless."""
        self._windows()["train" if self.model.training else "eval"][name] = [float(value)]

    def write_trials(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends one JSON object a trial to trials.jsonl. Every process has to call it: the rows are gathered."""
        rows = list(rows)
        if not getattr(self.args, "write_trials", True):
            return
        if self.args.world_size > 1:
            from accelerate.utils import gather_object

            rows = gather_object(rows)
        if self.is_world_process_zero():
            self._file(TRIALS).append(rows)

    def offending_batch(self, inputs: Any) -> dict[str, Any]:
        """What is written out of a micro-batch whose update was dropped."""
        batch = {"inputs": inputs}
        buffered = getattr(self, "_buffered_inputs", None)  # GRPO: the slice that the loss was computed on
        if buffered:
            batch["buffered"] = buffered[(self._step - 1) % len(buffered)]
        return batch

    # Training.

    @property
    def unwrapped(self) -> Any:
        """The model itself, out of whatever wraps it for training."""
        known = getattr(self, "_unwrapped", None)
        if known is None or known[0] is not self.model:  # asking anew takes as long as a small update
            known = self._unwrapped = self.model, self.accelerator.unwrap_model(self.model)
        return known[1]

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, ignore_keys_for_eval: Any = None
    ) -> Any:
        """Trains; a path resumes from that checkpoint, True from the newest whole one, None starts anew.

        With `args.auto_resume` None resumes from the newest whole checkpoint where there is one. A fresh start moves
        what an earlier run left in `output_dir` to `earlier-N/`, so that two histories never mix.

        Raises:
            CheckpointError: for a torn checkpoint that was named, for True where there is no whole one, and for one
                that another number of processes wrote.
        """
        checkpoint = self._choose(resume_from_checkpoint)
        facts = ckpt.read_manifest(checkpoint) if checkpoint else {}
        if facts and facts.get("processes") != self.args.world_size:
            raise CheckpointError(
                f"{checkpoint} was written by {facts.get('processes')} process(es), this run has "
                f"{self.args.world_size}: a resume is exact only with the same number"
            )
        if self.is_world_process_zero():
            self._prepare_output(checkpoint, facts)
        self._session_start = facts.get("step", 0)
        self._trackers = tracker_ids(self.args, facts.get("trackers", {}))
        try:
            with trackers(self.args, self._trackers):
                return super().train(str(checkpoint) if checkpoint else None, trial, ignore_keys_for_eval)
        finally:
            for name in (METRICS, TRIALS):
                self._file(name).close()

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch, forward and backward; drops the update when it is not finite."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.is_deepspeed_enabled:  # its engine steps inside the backward pass: nothing can be dropped here
            return loss
        if not (self.check_update(model, inputs, loss) or torch.isfinite(loss).all()):  # NaN would stay in the sum
            loss = self._tr_loss / (1 + self.state.global_step - self._globalstep_last_logged)
        return loss

    def check_update(self, model: nn.Module, inputs: Any, loss: Tensor) -> bool:
        """After a backward pass: whether the update may be taken; else its gradients are dropped, on every process."""
        guard = self._guard()
        clean = guard.see(self.offending_batch(inputs), loss, model)
        scaled = self.accelerator.scaler is not None  # its gradients overflow now and then, and it handles that
        if self.accelerator.sync_gradients:
            bad = self._anywhere(not clean or not (scaled or finite(model.parameters())))
            clean = not guard.close(bad, self.state.global_step, self.args.process_index, model)
        if not clean and not scaled:
            model.zero_grad(set_to_none=True)
        return clean

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs as the parent trainer does, and writes the same to metrics.jsonl."""
        if "loss" in logs:
            logs["guard/skipped_steps"] = self._guard().skipped
        if "train_runtime" in logs and self.state.global_step:
            share = (self.state.global_step - self._session_start) / self.state.global_step
            for key in ("train_samples_per_second", "train_steps_per_second"):
                logs[key] = round(logs[key] * share, 3)
        if not hasattr(self, "_metrics"):  # GRPO and SFT average their own
            mode, prefix = ("train", "") if self.model.training else ("eval", "eval_")
            window = self._windows()[mode]
            logs.update({prefix + k: v for k, v in window_means(window, self.args.world_size).items()})
            window.clear()
        super().log(logs, start_time)
        if self.is_world_process_zero():
            self._file(METRICS).append([{"step": self.state.global_step, "time": time.time(), **logs}])

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """One pass over the data, in an order that depends on the seed and the epoch alone."""
        self._restore_loop()
        if self.state.global_step >= self.state.max_steps:  # a resumed run that was finished takes no further step
            self.control.should_training_stop = True
            return
        _seed_sampler(kwargs["train_dataloader"], self.args.seed, kwargs["epoch"])
        super()._run_epoch(*args, **kwargs)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        self._restore_loop()
        return super()._finalize_training(*args, **kwargs)

    def _send_telemetry(self) -> None:
        """TRL tells the hub about every construction; this one does not."""

    # Its parts.

    def _choose(self, asked: str | bool | None) -> Path | None:
        """The checkpoint to resume from; the main process looks, the others are told."""
        answer: list[Any] = [None, ""]
        if self.is_world_process_zero():
            try:
                answer = [self._find(asked), ""]
            except (OSError, CheckpointError) as error:
                answer = [None, str(error)]
        if self.args.world_size > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(answer)
        if answer[1]:
            raise CheckpointError(answer[1])
        return Path(answer[0]) if answer[0] else None

    def _find(self, asked: str | bool | None) -> str | None:
        root = Path(self.args.output_dir)
        if asked is True or (asked is None and getattr(self.args, "auto_resume", False)):
            newest = ckpt.newest_checkpoint(root)
            if newest is None and asked:
                raise CheckpointError(f"{root} holds no whole checkpoint to resume from")
            return str(newest) if newest else None
        if not asked:
            return None
        path = Path(asked).resolve()
        problems = ckpt.verify(path)
        if problems:
            raise CheckpointError(
                f"{path} is torn: {problems[0]}. Resume from another one (True picks the newest whole one)"
            )
        return str(path)

    def _prepare_output(self, checkpoint: Path | None, facts: Mapping[str, Any]) -> None:
        """Keeps in the output directory what belongs to the resumed history; the rest moves to earlier-N/."""
        root = Path(self.args.output_dir)
        ckpt.sweep(root)
        inside = checkpoint is not None and checkpoint.resolve().parent == root.resolve()
        stale = [p for p in ckpt.list_checkpoints(root) if not inside or int(p.name.split("-")[1]) > facts["step"]]
        if not inside:
            stale += [path for name in (METRICS, TRIALS, BAD) if (path := root / name).exists()]
        ckpt.set_aside(root, stale)
        for name in (METRICS, TRIALS) if inside else ():
            if not self._file(name).cut(facts["logs"][name]):
                logger.warning("%s is shorter than when the checkpoint was saved: rows are missing", root / name)

    def _states(self) -> dict[str, Any]:
        return super()._states() | {"guard": self._guard().state_dict()}

    def _load_states(self, states: dict[str, Any]) -> None:
        super()._load_states(states)
        self._guard().load_state_dict(states["guard"])

    def _guard(self) -> FiniteGuard:
        if self._finite_guard is None:
            folder = Path(self.args.output_dir) / BAD
            self._finite_guard = FiniteGuard(getattr(self.args, "max_skipped_steps", 10), folder)
        return self._finite_guard

    def _anywhere(self, flag: bool) -> bool:
        """Whether `flag` is set on any process."""
        if self.args.world_size == 1:
            return flag
        mine = torch.tensor([float(flag)], device=self.args.device)
        return bool(self.accelerator.gather(mine).max() > 0)


def _seed_sampler(dataloader: Any, seed: int, epoch: int) -> None:
    """Makes the order of an epoch a function of seed and epoch, however deep accelerate has wrapped the sampler.

    TRL's RepeatSampler draws all its epochs from one generator: resumed in a later epoch it would repeat the first.
    """
    batches: Any = getattr(dataloader, "batch_sampler", None)
    while hasattr(batches, "batch_sampler"):
        batches = batches.batch_sampler
    sampler: Any = getattr(batches, "sampler", None)
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)
    elif isinstance(generator := getattr(sampler, "generator", None), torch.Generator):
        generator.manual_seed(seed + epoch)
