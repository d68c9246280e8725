"""A run that a file asks to save and end: it does so after its update, and goes on as if it had never ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from mrt.cli import main as cli
from mrt.training import checkpoint as ckpt
from mrt.training.stopping import VARIABLE, StopFile
from tests.support import bandit
from tests.support.compare import assert_same_run

pytestmark = pytest.mark.training


class Asks(TrainerCallback):
    """Writes the file while an update runs."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            self.path.touch()


def test_a_run_that_was_asked_to_end_goes_on_as_if_left_alone(tmp_path: Path) -> None:
    alone = bandit.build(tmp_path / "alone")
    alone.train()
    first, stop = bandit.build(tmp_path / "asked"), StopFile(tmp_path / "stop")
    first.add_callback(Asks(stop.path, 5))  # checkpoints of its own it saves at 3, 6, ...
    first.add_callback(stop)
    first.train()
    assert stop.seen
    assert first.state.global_step == 5
    newest = ckpt.newest_checkpoint(tmp_path / "asked")
    assert newest is not None
    assert newest.name == "checkpoint-5"
    stop.path.unlink()
    again = bandit.build(tmp_path / "asked")
    again.add_callback(StopFile(stop.path))
    again.train(resume_from_checkpoint=True)
    assert_same_run(alone, again)


def test_the_command_says_that_it_stopped_and_then_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop, run = tmp_path / "stop", tmp_path / "run"
    stop.touch()
    monkeypatch.setenv(VARIABLE, str(stop))
    command = ["train", "control/rl2-bandit", f"output_dir={run}", "args.max_steps=2", "args.logging_steps=1"]
    command += ["args.per_device_train_batch_size=4", "args.use_cpu=true", "--json"]
    found = []
    for finished in (False, True):
        assert cli.main(command) == 0
        found.append(json.loads(capsys.readouterr().out))
        assert json.loads((run / "run.json").read_text())["finished"] is finished
        assert (run / "model").exists() is finished
        stop.unlink(missing_ok=True)
    assert [(one["status"], one["steps"]) for one in found] == [("stopped", 1), ("trained", 2)]
    assert sorted(path.name for path in run.glob("checkpoint-*"))[0] == "checkpoint-1"


def test_a_last_update_is_an_end_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "stop"))
    stop = StopFile.of_environment()
    assert stop is not None
    stop.path.touch()
    run = bandit.build(tmp_path / "run", max_steps=1)
    run.add_callback(stop)
    run.train()
    assert not stop.seen
    monkeypatch.delenv(VARIABLE)
    assert StopFile.of_environment() is None
