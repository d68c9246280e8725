"""What the tests of resuming share: a run that is interrupted, and what has to be equal at its end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from tests.support import bandit

CLOCK = {"total_flos", "time", "step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second"}


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


def assert_same_files(left: Path, right: Path) -> None:
    """The same lines of metrics.jsonl but for the clock, and the same bytes of trials.jsonl."""
    assert logged(left) == logged(right)
    assert (left / "trials.jsonl").exists() == (right / "trials.jsonl").exists()
    if (left / "trials.jsonl").exists():
        assert (left / "trials.jsonl").read_bytes() == (right / "trials.jsonl").read_bytes()


def assert_same_run(left: Any, right: Any) -> None:
    """Two finished trainers: weights, optimiser, schedule, logs and trials."""
    assert bandit.digest(left) == bandit.digest(right)
    assert_same_files(Path(left.args.output_dir), Path(right.args.output_dir))
