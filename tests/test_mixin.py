"""`TrialMixin` before its three bases: exact resume, the finite guard, what is written, what is refused."""

from __future__ import annotations

import errno
import json
import math
import random
import shutil
import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback

sys.path.append(str(Path(__file__).parent / "programs"))

import bandit

from mrt import checkpoint as ckpt
from mrt import mixin, saving
from mrt.codec import load_tree
from mrt.errors import CheckpointError, ConfigError, MRTError
from mrt.trainer import TrialConfig
from mrt.trials import Trials

CLOCK = {"total_flos", "time", "step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second"}
EPOCHS = {"num_tasks": 20, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}  # 2.5 updates an epoch


class StopAt(TrainerCallback):
    """Ends the run as Ctrl-C would, after the step but before its checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def logged(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what a clock says."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in CLOCK} for line in lines]


def interrupted(build: Callable[[], Any], steps: Iterable[int]) -> Any:
    """The trainer that finished a run which was interrupted after each of `steps`."""
    for step in steps:
        trainer = build()
        trainer.add_callback(StopAt(step))
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    trainer = build()
    trainer.train()
    return trainer


def assert_same_run(left: Path, right: Path, digests: tuple[str, str]) -> None:
    assert digests[0] == digests[1]
    assert logged(left) == logged(right)
    if (left / "trials.jsonl").exists():
        assert (left / "trials.jsonl").read_bytes() == (right / "trials.jsonl").read_bytes()


@pytest.mark.parametrize("learners", [bandit.BanditTrainer, bandit.TwoLearners])
@pytest.mark.parametrize("options", [{}, EPOCHS])
def test_a_resumed_run_equals_one_left_alone(learners: Any, options: dict[str, Any], tmp_path: Path) -> None:
    """Weights, optimiser, logged losses and every sampled trial; checkpoints every 3 steps, logs every 2."""
    alone = bandit.build(tmp_path / "alone", learners, **options)
    alone.train()
    # After 1 there is no checkpoint; 4 and 11 are steps from one, 5 lies in a logging window, 9 is one's own step.
    resumed = interrupted(lambda: bandit.build(tmp_path / "resumed", learners, **options), (1, 4, 5, 9, 11))
    assert_same_run(tmp_path / "alone", tmp_path / "resumed", (bandit.digest(alone), bandit.digest(resumed)))
    assert resumed.state.log_history[-1]["train_loss"] == alone.state.log_history[-1]["train_loss"]


@pytest.mark.parametrize("kind", ["grpo", "sft"])
def test_trl_trainers_resume_exactly(kind: str, tmp_path: Path) -> None:
    """In the second epoch, and for GRPO inside a generation buffer that several updates share."""
    import tiny_llm

    build = tiny_llm.BUILD[kind]
    alone = build(tmp_path / "alone")
    alone.train()
    resumed = interrupted(lambda: build(tmp_path / "resumed"), (4, 11))
    assert_same_run(tmp_path / "alone", tmp_path / "resumed", (bandit.digest(alone), bandit.digest(resumed)))
    assert alone.state.epoch > 1.5
    if kind == "grpo":
        state = load_tree(tmp_path / "resumed" / "checkpoint-14", "trial_state")["trainer"]
        assert state["_step"] == 14
        assert len(state["_buffered_inputs"]) == 2
        assert logged(tmp_path / "alone")[0]["toy/rows"] == 8


@pytest.mark.slow
def test_without_our_part_the_same_comparison_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's sampler restarts its order at resume, and its buffer is lost: the comparison above is able to fail."""
    import tiny_llm

    for name, value in (("PLAIN", ()), ("_seed_sampler", lambda *_: None)):
        monkeypatch.setattr(saving if name == "PLAIN" else mixin, name, value)
        alone = tiny_llm.grpo(tmp_path / f"alone{name}")
        alone.train()
        resumed = interrupted(lambda name=name: tiny_llm.grpo(tmp_path / f"resumed{name}"), (4, 11))
        assert bandit.digest(alone) != bandit.digest(resumed), name
        monkeypatch.undo()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"gradient_accumulation_steps": 3, "log_completions": True},
        {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.5},
        {"lora": True},
    ],
)
def test_grpo_resumes_exactly_with_more_moving_parts(options: dict[str, Any], tmp_path: Path) -> None:
    import tiny_llm

    alone = tiny_llm.grpo(tmp_path / "alone", **options)
    alone.train()
    resumed = interrupted(lambda: tiny_llm.grpo(tmp_path / "resumed", **options), (4, 8, 11))
    assert_same_run(tmp_path / "alone", tmp_path / "resumed", (bandit.digest(alone), bandit.digest(resumed)))


def test_a_finished_run_takes_no_further_step(tmp_path: Path) -> None:
    """12 steps of epochs of 2.5: transformers would train step 13 on resuming the last checkpoint."""
    first = bandit.build(tmp_path, **EPOCHS)
    first.train()
    again = bandit.build(tmp_path, **EPOCHS)
    result = again.train()
    assert again.state.global_step == 12
    assert bandit.digest(again) == bandit.digest(first)
    assert logged(tmp_path)[-1] == {k: v for k, v in first.state.log_history[-1].items() if k not in CLOCK}
    assert result.training_loss == first.state.log_history[-1]["train_loss"]


def test_which_checkpoint_is_resumed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def build(**options: Any) -> Any:
        return bandit.build(tmp_path, auto_resume=False, save_total_limit=None, **options)

    with pytest.raises(CheckpointError, match="no whole checkpoint to resume from"):
        build().train(resume_from_checkpoint=True)
    build().train()
    expected = bandit.digest(last := build())
    last.train(resume_from_checkpoint=True)
    weights = tmp_path / "checkpoint-9" / "model.safetensors"
    raw = weights.read_bytes()
    weights.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"checkpoint-9 is torn: model.safetensors was altered"):
        build().train(resume_from_checkpoint=str(tmp_path / "checkpoint-9"))
    shutil.rmtree(tmp_path / "checkpoint-12")
    resumed = build()
    resumed.train(resume_from_checkpoint=True)
    assert "checkpoint-9, which is torn" in caplog.text
    assert resumed._session_start == 6
    assert bandit.digest(resumed) != expected, "digest of the untrained one"
    assert bandit.digest(resumed) == bandit.digest(last)
    assert (tmp_path / "earlier-1" / "checkpoint-9").is_dir(), "what lay ahead belongs to another history"
    assert ckpt.verify(tmp_path / "checkpoint-9") == []


def test_a_fresh_start_moves_the_earlier_run_aside(tmp_path: Path) -> None:
    for _ in range(2):
        bandit.build(tmp_path, auto_resume=False, max_steps=4).train()
    assert len(logged(tmp_path)) == 3
    assert len(logged(tmp_path / "earlier-1")) == 3
    assert ckpt.newest_checkpoint(tmp_path / "earlier-1") is not None


@pytest.mark.parametrize("name", ["optimizer.safetensors", "scheduler.json", "rng_state.json", "trial_state.json"])
def test_a_missing_state_is_an_error_and_never_a_silent_restart(name: str, tmp_path: Path) -> None:
    """transformers itself returns silently when the optimiser's file is not there."""
    bandit.build(tmp_path, max_steps=4).train()
    folder = tmp_path / "checkpoint-3"
    (folder / name).unlink()
    facts = ckpt.read_manifest(folder)
    shutil.rmtree(tmp_path / "checkpoint-4")
    ckpt.write_manifest(folder, **{k: v for k, v in facts.items() if k not in ("files", "digest", "schema_version")})
    assert ckpt.verify(folder) == [], "whole as far as the manifest knows"
    with pytest.raises(CheckpointError, match=name):
        bandit.build(tmp_path, max_steps=4).train()


def test_another_number_of_processes_or_other_states_are_refused(tmp_path: Path) -> None:
    bandit.build(tmp_path, max_steps=3).train()
    other = bandit.build(tmp_path, max_steps=6)
    other.register_state("replay", (dict, print))
    with pytest.raises(
        CheckpointError, match=r"holds the states \['cost'\], this trainer registers \['cost', 'replay'\]"
    ):
        other.train()
    folder = tmp_path / "checkpoint-3"
    facts = {k: v for k, v in ckpt.read_manifest(folder).items() if k not in ("files", "digest", "schema_version")}
    ckpt.write_manifest(folder, **facts | {"processes": 4})
    with pytest.raises(CheckpointError, match=r"written by 4 process\(es\), this run has 1"):
        bandit.build(tmp_path, max_steps=6).train()


class Counter:
    def __init__(self) -> None:
        self.pools = {"a": [torch.zeros(2)], 3: (None, 1.5)}

    def state_dict(self) -> dict[str, Any]:
        return {"pools": self.pools}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.pools = state["pools"]


def test_registered_states_are_there_before_the_first_batch(tmp_path: Path) -> None:
    def build() -> Any:
        trainer = bandit.build(tmp_path, max_steps=3)
        trainer.extras = {
            "counter": Counter(),
            "torch": torch.Generator().manual_seed(1),
            "python": random.Random(1),
            "numpy": np.random.default_rng(1),
        }
        for name, obj in trainer.extras.items():
            trainer.register_state(name, obj)
        trainer.box = [0]
        trainer.register_state("pair", (lambda: list(trainer.box), lambda value: trainer.box.__setitem__(0, value[0])))
        return trainer

    def draws(extras: dict[str, Any]) -> list[float]:
        return [torch.rand(1, generator=extras["torch"]).item(), extras["python"].random(), extras["numpy"].random()]

    first = build()
    draws(first.extras)
    first.extras["counter"].pools["a"][0] += 5
    first.box[0] = 7
    first.train()
    expected = draws(first.extras)
    second = build()
    second.train()
    assert draws(second.extras) == expected
    assert second.box == [7]
    assert second.extras["counter"].pools["a"][0].tolist() == [5, 5]
    assert second.extras["counter"].pools[3] == (None, 1.5)
    with pytest.raises(ConfigError, match="'torch' is registered already"):
        second.register_state("torch", Counter())
    with pytest.raises(ConfigError, match=r"state 'list' is a list: give it state_dict\(\)"):
        second.register_state("list", [])


class Injected(bandit.BanditTrainer):
    """Losses and gradients that are not finite, in the micro-batches named in `bad` {(step, micro-batch): kind}."""

    bad: dict[tuple[int, int], str]
    at = (-1, 0)

    def losses(self, trials: Trials, weights: Tensor) -> dict[str, Tensor]:
        step = self.state.global_step
        self.at = (step, self.at[1] + 1 if self.at[0] == step else 0)
        loss = super().losses(trials, weights)["policy"]
        kind = self.bad.get(self.at)
        if kind == "loss nan":
            loss = loss * torch.nan
        elif kind == "loss inf":
            loss = loss + torch.inf
        elif kind == "gradient":  # a finite loss with an infinite gradient: sqrt at zero
            loss = loss + (self.model.head.bias * 0).sum().sqrt()
        return {"policy": loss}


class Watch(TrainerCallback):
    """Digests of weights and optimiser after every step."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.digests = trainer, []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.digests.append(self._digest(self.trainer))

    def _digest(self, trainer: Any) -> tuple[str, bool]:
        values = list(trainer.model.state_dict().values())
        finite = all(bool(torch.isfinite(value).all()) for value in values)
        return bandit.digest_of([values, trainer.optimizer.state_dict()["state"]]), finite

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.digests.append(self._digest(self.trainer))


def inject(folder: Path, bad: dict[tuple[int, int], str], **options: Any) -> tuple[Any, list[tuple[str, bool]]]:
    trainer = bandit.build(folder, Injected, **options)
    trainer.bad = bad
    trainer.add_callback(watch := Watch(trainer))
    trainer.train()
    return trainer, watch.digests


@pytest.mark.parametrize("kind", ["loss nan", "loss inf", "gradient"])
@pytest.mark.parametrize("micro", [0, 1])
def test_an_update_that_is_not_finite_is_dropped_whole(kind: str, micro: int, tmp_path: Path) -> None:
    """In either of two accumulated micro-batches: neither weights nor Adam's moments move, and the run goes on."""
    options = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, "max_steps": 6, "save_steps": 4}
    trainer, digests = inject(tmp_path, {(2, micro): kind}, **options)
    moved = [before != after for before, after in pairwise(digests)]
    assert moved == [True, True, False, True, True, True]
    assert all(finite for _, finite in digests)
    rows = logged(tmp_path)
    assert [row["guard/skipped_steps"] for row in rows if "loss" in row] == [0, 1, 1]
    assert all(math.isfinite(row["loss"]) for row in rows if "loss" in row), "one NaN would stay in the running sum"
    dump = load_tree(tmp_path / "bad_batches", "step-2-rank-0")
    assert [len(batch["inputs"]["index"]) for batch in dump["micro_batches"]] == [4, 4]
    assert dump["micro_batches"][micro]["trials"]["rewards"].shape == (32, bandit.PULLS)
    assert "head.bias" in dump["gradients_not_finite"] or kind == "loss inf"
    again, _ = inject(tmp_path, {}, **options | {"max_steps": 8})
    assert again._guard().skipped == 1, "the count outlives a resume"
    assert trainer._guard().consecutive == 0


def test_too_many_in_a_row_end_the_run_with_finite_weights(tmp_path: Path) -> None:
    bad = {(step, 0): "gradient" for step in (1, 3, 4, 5, 6)}
    trainer = bandit.build(tmp_path, Injected, max_skipped_steps=3)
    trainer.bad = bad
    with pytest.raises(MRTError, match=r"3 updates in a row .* the last at step 5.*bad_batches"):
        trainer.train()
    assert all(bool(torch.isfinite(value).all()) for value in trainer.model.parameters())
    assert sorted(path.name for path in (tmp_path / "bad_batches").glob("*.json")) == [
        f"step-{step}-rank-0.json" for step in (1, 3, 4, 5)
    ]


@pytest.mark.slow
def test_two_hundred_injections_are_all_caught(tmp_path: Path) -> None:
    rng = random.Random(0)
    steps = rng.sample(range(400), 200)
    bad = {(step, rng.randrange(2)): rng.choice(["loss nan", "loss inf", "gradient"]) for step in steps}
    options = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "max_steps": 400, "save_steps": 400}
    trainer, digests = inject(tmp_path, bad, max_skipped_steps=50, **options)
    moved = [before != after for before, after in pairwise(digests)]
    assert [step for step, change in enumerate(moved) if not change] == sorted(steps)
    assert all(finite for _, finite in digests)
    assert trainer._guard().skipped == 200
    assert len(list((tmp_path / "bad_batches").glob("*.json"))) == 50


def test_grpo_drops_the_update_and_shows_the_slice_it_was_computed_on(tmp_path: Path) -> None:
    import tiny_llm

    class Bad(tiny_llm.GRPO):
        def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
            loss = super()._compute_loss(model, inputs)
            return loss * torch.nan if self.state.global_step == 1 else loss

    trainer = tiny_llm.grpo(tmp_path, Bad, max_steps=3, save_steps=10)
    trainer.train()
    assert [row["guard/skipped_steps"] for row in logged(tmp_path) if "loss" in row] == [1]
    assert all(bool(torch.isfinite(value).all()) for value in trainer.model.parameters())
    batch = load_tree(tmp_path / "bad_batches", "step-1-rank-0")["micro_batches"][0]
    assert len(batch["inputs"]) == 8
    assert batch["buffered"]["completion_ids"].shape[0] == 4


def test_no_pickle_is_written_anywhere(tmp_path: Path) -> None:
    trainer = bandit.build(tmp_path, max_steps=3)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".jsonl", ".safetensors"}
    for folder in (tmp_path / "model", tmp_path / "checkpoint-3"):
        assert json.loads((folder / "training_args.json").read_text())["max_steps"] == 3


def test_a_save_that_fails_is_told_and_leaves_the_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    trainer = bandit.build(tmp_path)
    monkeypatch.setattr(trainer, "_save_rng_state", lambda folder: refuse() if "-6" in folder else None)
    with pytest.raises(CheckpointError, match=r"checkpoint-6 could not be saved .*Read-only file system"):
        trainer.train()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["checkpoint-3"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**30, 2**30, 2**20))
    with pytest.raises(CheckpointError, match=r"needs about 3\d MiB, but .* has 1 MiB free"):
        bandit.build(tmp_path / "full").train()


def test_the_best_checkpoint_is_never_a_staging_path(tmp_path: Path) -> None:
    import tiny_llm

    options = {"eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": True, "max_steps": 9}
    trainer = tiny_llm.sft(tmp_path, metric_for_best_model="loss", **options)
    trainer.train()
    best = tmp_path / "checkpoint-9"
    assert trainer.state.best_model_checkpoint == str(best)
    assert json.loads((best / "trainer_state.json").read_text())["best_model_checkpoint"] == str(best)
    assert any("eval_mean_token_accuracy" in row for row in logged(tmp_path))


def test_what_is_pushed_is_the_finished_folder(tmp_path: Path) -> None:
    pushed = []

    class Pushing(bandit.BanditTrainer):
        def _push_from_checkpoint(self, folder: str) -> None:
            pushed.append((Path(folder).name, ckpt.verify(Path(folder))))

    trainer = bandit.build(tmp_path, Pushing, max_steps=4)
    trainer.args.push_to_hub = True
    trainer.train()
    assert pushed == [("checkpoint-3", []), ("checkpoint-4", [])]


def test_metrics_are_averaged_over_the_window(tmp_path: Path) -> None:
    class Logging(bandit.BanditTrainer):
        def losses(self, trials: Trials, weights: Tensor) -> dict[str, Tensor]:
            step = self.state.global_step
            self.log_metric("toy/mean", [1.0, 4.0, math.nan, 5.0, math.nan, math.nan][step])
            self.log_total("toy/total", step)
            return super().losses(trials, weights)

    trainer = bandit.build(tmp_path, Logging, max_steps=6)
    trainer.train()
    rows = [row for row in logged(tmp_path) if "loss" in row]
    assert [row["toy/mean"] for row in rows] == [2.5, 5.0, None], "NaN is not measured; nothing measured is null"
    assert [row["toy/total"] for row in rows] == [1, 3, 5]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert math.isnan(trainer.state.log_history[-2]["toy/mean"])


def test_trials_can_be_left_unwritten(tmp_path: Path) -> None:
    bandit.build(tmp_path, max_steps=2, write_trials=False).train()
    assert not (tmp_path / "trials.jsonl").exists()


def test_a_log_that_was_shortened_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bandit.build(tmp_path, max_steps=3).train()
    (tmp_path / "trials.jsonl").write_text("")
    bandit.build(tmp_path, max_steps=4).train()
    assert "trials.jsonl is shorter than when the checkpoint was saved" in caplog.text


def test_arguments(tmp_path: Path) -> None:
    args = TrialConfig(output_dir=str(tmp_path), max_steps=1, seed=5, use_cpu=True)
    assert (args.lr_scheduler_type, args.data_seed, args.report_to, args.bf16) == ("constant", 5, [], False)
    assert (args.save_total_limit, args.hub_private_repo, args.push_to_hub) == (2, True, False)
    assert not any([args.remove_unused_columns, args.logging_nan_inf_filter, args.gradient_checkpointing])
    with pytest.raises(ConfigError, match="save_total_limit=1: at least 2"):
        TrialConfig(output_dir=str(tmp_path), max_steps=1, save_total_limit=1)
    with pytest.raises(ConfigError, match="max_skipped_steps=0"):
        TrialConfig(output_dir=str(tmp_path), max_steps=1, max_skipped_steps=0)


def test_nobody_is_told_about_a_construction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiny_llm
    from trl.trainer import base_trainer

    monkeypatch.setattr(base_trainer, "send_telemetry", lambda **_: pytest.fail("a ping"))
    monkeypatch.delenv("CI", raising=False)
    tiny_llm.sft(tmp_path)
