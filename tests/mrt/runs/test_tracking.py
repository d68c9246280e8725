"""Append-only logs that are cut back, and trackers that go on with their run."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers.integrations import integration_utils

from mrt.errors import ConfigError
from mrt.runs.recipe import import_trainer, load_recipe
from mrt.runs.tracking import JsonLines, tracker_ids, trackers


def test_rows_are_appended_and_cut_back(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "run" / "trials.jsonl")
    assert log.sync() == 0
    log.append([{"a": 1}, {"a": "é"}])
    length = log.sync()
    assert length == len(log.path.read_bytes())
    log.append([{"a": 3}])
    again = JsonLines(log.path)
    assert again.cut(length)
    again.append([{"a": 4}])
    assert [json.loads(line)["a"] for line in log.path.read_text().splitlines()] == [1, "é", 4]
    assert not again.cut(10_000), "rows are missing"
    assert again.cut(0)
    assert log.path.read_bytes() == b""
    assert JsonLines(tmp_path / "none.jsonl").cut(0)
    assert not JsonLines(tmp_path / "none.jsonl").cut(1)


def test_rows_are_strict_json(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "x.jsonl")
    row = {"nan": math.nan, "inf": [math.inf, (1.5, None)], "t": torch.tensor([1.0, math.nan]), "n": np.float32(0.5)}
    log.append([row | {"nested": {3: torch.tensor(7)}}])
    assert json.loads(log.path.read_text(), parse_constant=pytest.fail) == {
        "nan": None,
        "inf": [None, [1.5, None]],
        "t": [1.0, None],
        "n": 0.5,
        "nested": {"3": 7},
    }


def arguments(**changed: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"report_to": ["wandb", "trackio"], "run_name": None, "output_dir": "runs/a"} | changed)


def test_a_tracker_goes_on_with_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    monkeypatch.delenv("WANDB_RESUME", raising=False)
    assert tracker_ids(arguments(report_to=[]), {}) == {}
    first = tracker_ids(arguments(), {})
    assert first["trackio"].startswith("a-")
    assert first != tracker_ids(arguments(), {}), "another run, another id"
    assert tracker_ids(arguments(), first) == first
    args = arguments()
    with trackers(args, first):
        assert (os.environ["WANDB_RUN_ID"], os.environ["WANDB_RESUME"]) == (first["wandb"], "allow")
        assert args.run_name == first["trackio"]
    assert "WANDB_RUN_ID" not in os.environ, "the next run of this process is another one"
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    given = tracker_ids(arguments(run_name="by hand"), first)
    assert given == {"wandb": "mine", "trackio": "by hand"}
    with trackers(args, given):
        pass
    assert os.environ["WANDB_RUN_ID"] == "mine"


@pytest.mark.parametrize(
    ("report_to", "message"),
    [
        ("wandb", r"wandb is not installed \(pip install 'mrt-rl\[track\]'\), or set report_to=none"),
        ("mlflow", r"mlflow is not installed \(pip install mlflow\)"),
        ("wandbb", "unknown tracker; did you mean 'wandb'"),
    ],
)
def test_a_tracker_that_is_not_there_is_said_before_training(
    report_to: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integration_utils, "get_available_reporting_integrations", lambda: ["tensorboard"])
    recipe = load_recipe("gradient/maml", [f"args.report_to={report_to}"])
    with pytest.raises(ConfigError, match=message):
        import_trainer(recipe.trainer).from_recipe(recipe, tmp_path)
