"""`TrialMixin` before its three bases: a resumed run is the run left alone, and what it writes as it goes."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from mrt.errors import CheckpointError, ConfigError
from mrt.trainer import TrialConfig
from mrt.training import checkpoint as ckpt
from mrt.training import mixin, saving
from mrt.training.codec import load_tree
from mrt.training.collection import Batch
from tests.support import bandit
from tests.support.compare import CLOCK, assert_same_run, interrupted, logged

pytestmark = pytest.mark.training

# Epochs of 3 updates, the last of them with one micro-batch only; checkpoints lie inside them.
EPOCHS = {"num_tasks": 20, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, "save_steps": 2}


@pytest.mark.parametrize(
    ("learners", "options"), [(bandit.BanditTrainer, {}), (bandit.BanditTrainer, EPOCHS), (bandit.TwoLearners, EPOCHS)]
)
def test_a_resumed_run_equals_one_left_alone(learners: Any, options: dict[str, Any], tmp_path: Path) -> None:
    """Weights, optimiser, logged losses and every sampled trial; checkpoints every 3 or 2 steps, logs every 2."""
    alone = bandit.build(tmp_path / "alone", learners, **options)
    alone.train()
    # After 1 there is no checkpoint; 5 and 11 lie in a logging window; 4 or 9 were about to be saved themselves.
    resumed = interrupted(lambda: bandit.build(tmp_path / "resumed", learners, **options), (1, 4, 5, 9, 11))
    assert_same_run(alone, resumed)
    assert resumed.state.log_history[-1]["train_loss"] == alone.state.log_history[-1]["train_loss"]


@pytest.mark.parametrize("kind", ["grpo", "sft"])
def test_trl_trainers_resume_exactly(kind: str, tmp_path: Path) -> None:
    """In the second epoch, and for GRPO inside a generation buffer that several updates share."""
    from tests.support import tiny_llm

    build = tiny_llm.BUILD[kind]
    alone = build(tmp_path / "alone")
    alone.train()
    resumed = interrupted(lambda: build(tmp_path / "resumed"), (4, 11))
    assert_same_run(alone, resumed)
    assert alone.state.epoch > 1.5
    if kind == "grpo":
        state = load_tree(tmp_path / "resumed" / "checkpoint-14", "trial_state")["trainer"]
        assert state["_step"] == 14
        assert len(state["_buffered_inputs"]) == 2
        assert logged(tmp_path / "alone")[0]["toy/rows"] == 8


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_without_our_part_the_same_comparison_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's sampler restarts its order at resume, and its buffer is lost: the comparison above is able to fail."""
    from tests.support import tiny_llm

    for name, value in (("PLAIN", ()), ("_seed_sampler", lambda *_: None)):
        monkeypatch.setattr(saving if name == "PLAIN" else mixin, name, value)
        alone = tiny_llm.grpo(tmp_path / f"alone{name}")
        alone.train()
        resumed = interrupted(lambda name=name: tiny_llm.grpo(tmp_path / f"resumed{name}"), (4, 11))
        assert bandit.digest(alone) != bandit.digest(resumed), name
        monkeypatch.undo()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "options",
    [
        {"gradient_accumulation_steps": 3, "log_completions": True},
        {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.5},
        {"lora": True},
    ],
)
def test_grpo_resumes_exactly_with_more_moving_parts(options: dict[str, Any], tmp_path: Path) -> None:
    from tests.support import tiny_llm

    alone = tiny_llm.grpo(tmp_path / "alone", **options)
    alone.train()
    resumed = interrupted(lambda: tiny_llm.grpo(tmp_path / "resumed", **options), (4, 8, 11))
    assert_same_run(alone, resumed)


def test_a_finished_run_takes_no_further_step(tmp_path: Path) -> None:
    """11 steps end inside an epoch: transformers would train step 12 on resuming the last checkpoint."""
    first = bandit.build(tmp_path, max_steps=11, **EPOCHS)
    first.train()
    again = bandit.build(tmp_path, max_steps=11, **EPOCHS)
    result = again.train()
    assert again.state.global_step == 11
    assert bandit.digest(again) == bandit.digest(first)
    assert logged(tmp_path)[-1] == {k: v for k, v in first.state.log_history[-1].items() if k not in CLOCK}
    assert result.training_loss == first.state.log_history[-1]["train_loss"]


def test_metrics_are_averaged_over_the_window(tmp_path: Path) -> None:
    class Logging(bandit.BanditTrainer):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            step = self.state.global_step
            self.log_metric("toy/mean", [1.0, 4.0, math.nan, 5.0, math.nan, math.nan][step])
            self.log_total("toy/total", step)
            return super().losses(batch)

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
    with pytest.raises(ConfigError, match="save_total_limit=1 must be at least 2"):
        TrialConfig(output_dir=str(tmp_path), max_steps=1, save_total_limit=1)
    with pytest.raises(ConfigError, match="max_skipped_steps=0"):
        TrialConfig(output_dir=str(tmp_path), max_steps=1, max_skipped_steps=0)


def test_nobody_is_told_about_a_construction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl.trainer import base_trainer

    from tests.support import tiny_llm

    monkeypatch.setattr(base_trainer, "send_telemetry", lambda **_: pytest.fail("a ping"))
    monkeypatch.delenv("CI", raising=False)
    tiny_llm.sft(tmp_path)


def test_a_fresh_start_moves_the_earlier_run_aside(tmp_path: Path) -> None:
    for _ in range(2):
        bandit.build(tmp_path, auto_resume=False, max_steps=4).train()
    assert len(logged(tmp_path)) == 3
    assert len(logged(tmp_path / "earlier-1")) == 3
    assert ckpt.newest_checkpoint(tmp_path / "earlier-1") is not None


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
