"""Several seeds, one after the other and side by side: the same runs, the same aggregate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mrt.cli.main import main

TINY = ["args.max_steps=2", "args.per_device_train_batch_size=4", "policy.hidden_size=4", "args.logging_steps=1"]


@pytest.mark.slow
def test_side_by_side_is_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for name, more in (("apart", []), ("together", ["--workers", "2"])):
        command = ["train", "control/rl2-two-arms", *TINY, f"output_dir={tmp_path / name}", "--seeds", "2", *more]
        assert main([*command, "--json"]) == 0
        found.append(json.loads((tmp_path / name / "seeds.json").read_text()))
    assert found[0] == found[1]
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == found[1]["metrics"], "nothing is run twice"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--workers", "2"], "--workers N goes with --seeds"),
        (["--seeds", "2", "--ray", "auto"], "--ray goes with --workers"),
        (["--seeds", "2", "--workers", "2", "--fresh"], "--fresh sets one run aside"),
    ],
)
def test_options_that_do_not_go_together(
    options: list[str], match: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "control/rl2-two-arms", *TINY, f"output_dir={tmp_path}/r", *options]) == 2
    assert match in capsys.readouterr().err
