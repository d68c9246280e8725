"""How a trainer saves and resumes: whole checkpoints without pickle, and every state that decides the next step.

The state of the outer loop is more than weights and optimiser: the sum of losses since the last log, TRL's generation
buffer and its counters, the random generators, and everything that a trainer registers.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mrt.errors import CheckpointError, ConfigError
from mrt.runs.fields import redact
from mrt.runs.tracking import METRICS, TRIALS, JsonLines
from mrt.training import checkpoint as ckpt
from mrt.training.codec import load_tree, save_tree, tree_bytes, tree_to
from mrt.training.meeting import meet
from mrt.training.shards import Sharded, hashed_inside

Behind: Any = object  # a transformers.Trainer by the time it runs: the next class in the bases
Accessors = tuple[Callable[[], Any], Callable[[Any], Any]]
SLACK = 32 << 20  # bytes of a checkpoint beside its tensors: tokenizer, JSON, random states
LOOP = ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged", "_initial_global_step")
PLAIN = ("_step", "_buffered_inputs", "_total_train_tokens")  # what GRPO and SFT keep between steps, where they have it


class SavingMixin(Behind):
    """The half of `TrialMixin` that writes and reads checkpoints."""

    _staging: Path | None = None
    _registered: dict[str, Accessors] | None = None
    _sharded: Mapping[str, Sharded] = {}  # registered ones that write files of their own
    _lineage: Path | None = None  # the checkpoint that was saved last, or that this run went on from
    _loop: dict[str, Any] | None = None  # of the checkpoint, until the training loop has made its own variables
    _trackers: Mapping[str, str] = {}
    _files: dict[str, JsonLines] | None = None
    _own_windows: dict[str, dict[str, list[float]]] | None = None

    def register_state(self, name: str, obj: Any) -> None:
        """Makes `obj` a part of every checkpoint; at resume it is restored before the first batch.

        Args:
            obj: has `state_dict()` and `load_state_dict(state)`, or is a pair (get, set) of functions, or a generator
                of Python, numpy or torch. States are trees as in `mrt.training.codec`; each process keeps its own.
                A `Sharded` one (`mrt.replay.Replay`) has a folder of that name in every checkpoint instead.
        """
        self._registered = {} if self._registered is None else self._registered
        if name in self._registered:
            raise ConfigError(f"a state named '{name}' is registered already")
        if isinstance(obj, Sharded):
            self._sharded = {**self._sharded, name: obj}
            obj = (lambda: None, lambda state: None)  # nothing in the tree
        self._registered[name] = _accessors(name, obj)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Saves under .staging-N, then makes it checkpoint-N in one rename, then deletes the oldest ones.

        Raises:
            CheckpointError: when the disk is full or cannot be written; every earlier checkpoint is still there.
        """
        from safetensors import SafetensorError

        root, name = Path(super()._get_output_dir(trial)), f"checkpoint-{self.state.global_step}"
        staging = root / f".staging-{self.state.global_step}"
        push, self.args.push_to_hub = self.args.push_to_hub, False  # what is pushed is the finished folder
        try:
            states = {} if self.args.save_only_model else self._states()
            if self.args.should_save:
                shutil.rmtree(staging, ignore_errors=True)
                (staging / name).mkdir(parents=True)
                ckpt.preflight(root, self._bytes(states))
            meet("a checkpoint may be written")
            self._staging = staging
            super()._save_checkpoint(model, trial)
            if states:
                save_tree(staging / name, self._ranked("trial_state"), states)
                for key, obj in self._sharded.items():
                    obj.save_shards(staging / name / self._ranked(key), self._shards_before(key))
            meet("a checkpoint is written")
            if self.args.should_save:
                self._finalise(root, name)
            self._lineage = root / name
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{root / name} could not be saved ({error}); no earlier one was touched") from error
        finally:
            self._staging, self.args.push_to_hub = None, push
            if self.args.should_save:
                shutil.rmtree(staging, ignore_errors=True)
        meet("a checkpoint stands")
        if push:
            self._push_from_checkpoint(str(root / name))

    def _finalise(self, root: Path, name: str) -> None:
        assert self._staging is not None
        best = self.state.best_model_checkpoint
        if best:
            self.state.best_model_checkpoint = str(root / Path(best).name)
            self.state.save_to_json(str(self._staging / name / "trainer_state.json"))
        ckpt.finalise(
            self._staging / name,
            root / name,
            hashed_inside(self._staging / name) if self._sharded else {},
            step=self.state.global_step,
            processes=self.args.world_size,
            trackers=dict(self._trackers),
            logs={name: self._file(name).sync() for name in (METRICS, TRIALS)},
        )
        ckpt.prune(root, self.args.save_total_limit, protect=self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:  # the arguments as JSON instead of a pickle
            folder = Path(output_dir or self.args.output_dir)
            (folder / "training_args.bin").unlink(missing_ok=True)
            arguments = redact(json.loads(self.args.to_json_string()))
            (folder / "training_args.json").write_text(json.dumps(arguments, indent=2) + "\n", encoding="utf-8")

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The card as the parent trainer writes it, without anything that looks like a credential."""
        super().create_model_card(*args, **kwargs)
        card = Path(self.args.output_dir) / "README.md"
        if self.is_world_process_zero() and card.is_file():
            card.write_text(redact(card.read_text(encoding="utf-8")), encoding="utf-8")

    def push_to_hub(
        self,
        commit_message: str | None = None,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Uploads weights (of an adapter the adapter alone) and tokenizer, and nothing else of the output directory.

        The repository is private unless `hub_private_repo` is false; `mrt.training.hub.push` says what is refused.
        """
        folder = Path(self.args.output_dir) / "model"
        self.save_model(str(folder), _internal_call=True)
        return self._push(folder, token, private)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.args.hub_strategy != "end":
            self._push(Path(checkpoint_folder), None, None)

    def _push(self, folder: Path, token: str | None, private: bool | None) -> str | None:
        if not self.is_world_process_zero():
            return None
        from mrt.training.hub import push

        name = self.args.hub_model_id or Path(self.args.output_dir).resolve().name
        private = self.args.hub_private_repo is not False if private is None else private
        return push(folder, name, private, token or self.args.hub_token)

    def _save_rng_state(self, output_dir: str) -> None:
        save_tree(Path(output_dir), self._ranked("rng_state"), ckpt.random_states())

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            ckpt.set_random_states(load_tree(Path(checkpoint), self._ranked("rng_state")))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:  # they keep their own formats
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.args.should_save:
            save_tree(Path(output_dir), "optimizer", self.optimizer.state_dict())
            save_tree(Path(output_dir), "scheduler", self.lr_scheduler.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Restores optimiser, schedule and every registered state; raises CheckpointError when one is missing."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        if not (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            self.optimizer.load_state_dict(load_tree(folder, "optimizer"))
            self.lr_scheduler.load_state_dict(load_tree(folder, "scheduler"))
        elif not any(folder.glob("optimizer*")) and not any(folder.glob("global_step*")):
            raise CheckpointError(f"{folder} has no state of the optimiser: it cannot be resumed")
        self._load_states(load_tree(folder, self._ranked("trial_state")))
        for key, obj in self._sharded.items():
            obj.load_shards(folder / self._ranked(key))
        self._lineage = folder

    def _save_scaler(self, output_dir: str) -> None:
        if self.accelerator.scaler is not None and self.args.should_save:
            save_tree(Path(output_dir), "scaler", self.accelerator.scaler.state_dict())

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(load_tree(Path(checkpoint), "scaler"))

    # What is kept.

    def _states(self) -> dict[str, Any]:
        """This process's state beside weights, optimiser, schedule and random generators, as one tree."""
        kept = {name: getattr(self, name) for name in PLAIN if hasattr(self, name)}
        if getattr(self, "log_completions", False):
            kept["_logs"] = {name: _lists(value) for name, value in self._logs.items() if name != "images"}
        if getattr(self.args, "sync_ref_model", False) and self.ref_model is not None:
            kept["ref_model"] = self.ref_model.state_dict()
        loop = {name: getattr(self, name) for name in LOOP if hasattr(self, name)}
        windows = {mode: dict(window) for mode, window in self._windows().items()}
        registered = {name: get() for name, (get, _) in (self._registered or {}).items()}
        return {"loop": loop, "windows": windows, "trainer": kept, "registered": registered}

    def _load_states(self, states: dict[str, Any]) -> None:
        saved, ours = states["registered"], self._registered or {}
        if saved.keys() != ours.keys():
            raise CheckpointError(
                f"the checkpoint holds the states {sorted(saved)}, this trainer registers {sorted(ours)}: "
                "it was written by another trainer or with other options"
            )
        self._loop = states["loop"]
        for mode, window in self._windows().items():
            window.clear()
            window.update(states["windows"][mode])
        kept = states["trainer"]
        for name, value in kept.pop("_logs", {}).items():
            _extend(self._logs[name], value)
        if "ref_model" in kept:
            self.ref_model.load_state_dict(kept.pop("ref_model"))
        for name, value in kept.items():
            setattr(self, name, tree_to(value, self.args.device))
        for name, (_, put) in ours.items():
            put(saved[name])

    def _restore_loop(self) -> None:
        """Puts back the sum of losses since the last log, which the outer loop has just set to zero."""
        loop, self._loop = self._loop, None
        for name, value in (loop or {}).items():
            setattr(self, name, tree_to(value, self.args.device))

    def _windows(self) -> dict[str, dict[str, list[float]]]:
        """{train | eval: {metric: values since the last log}}; GRPO and SFT bring their own."""
        if hasattr(self, "_metrics"):
            return self._metrics
        if self._own_windows is None:
            self._own_windows = {"train": defaultdict(list), "eval": defaultdict(list)}
        return self._own_windows

    def _file(self, name: str) -> JsonLines:
        if self._files is None:
            self._files = {name: JsonLines(Path(self.args.output_dir) / name) for name in (METRICS, TRIALS)}
        return self._files[name]

    def _ranked(self, name: str) -> str:
        return f"{name}-{self.args.process_index}" if self.args.world_size > 1 else name

    def _bytes(self, states: dict[str, Any]) -> int:
        """About how large a checkpoint will be: trained weights, optimiser and states."""
        adapter = hasattr(self.model, "peft_config")
        weights = [p for p in self.model.parameters() if p.requires_grad or not adapter]
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        optimiser = [] if sharded or self.optimizer is None else list(self.optimizer.state.values())
        shards = sum(obj.unsaved_bytes(self._shards_before(key)) for key, obj in self._sharded.items())
        return tree_bytes(weights) + tree_bytes(optimiser) + tree_bytes(states) + shards + SLACK

    def _shards_before(self, key: str) -> Path | None:
        return self._lineage / self._ranked(key) if self._lineage else None


def _accessors(name: str, obj: Any) -> Accessors:
    if hasattr(obj, "state_dict") and hasattr(obj, "load_state_dict"):
        return obj.state_dict, obj.load_state_dict
    if isinstance(obj, tuple) and len(obj) == 2 and all(callable(part) for part in obj):
        return obj
    if isinstance(obj, torch.Generator):
        return obj.get_state, obj.set_state
    if isinstance(obj, random.Random):
        return obj.getstate, obj.setstate
    if isinstance(obj, np.random.Generator):
        bits = obj.bit_generator
        return (lambda: bits.state), (lambda state: setattr(bits, "state", state))
    raise ConfigError(
        f"state '{name}' is a {type(obj).__name__}: give it state_dict() and load_state_dict(), or register (get, set)"
    )


def _lists(value: Any) -> Any:
    """Queues, and dictionaries of them, as lists."""
    return {key: list(inner) for key, inner in value.items()} if isinstance(value, dict) else list(value)


def _extend(queue: Any, value: Any) -> None:
    for target, rows in ((queue[key], value[key]) for key in value) if isinstance(value, dict) else ((queue, value),):
        target.clear()
        target.extend(rows)
