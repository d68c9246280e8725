"""run.json: what it says, whose directory it is, and who may write there."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mrt.errors import CheckpointError, ConfigError
from mrt.runs.recipe import Recipe
from mrt.runs.rundir import (
    RunState,
    differences,
    finish_run,
    inspect_run,
    locked,
    read_run,
    redact_command,
    set_aside,
    start_run,
    versions,
    write_json,
)

RECIPE = Recipe("a:B", model="m", args={"max_steps": 3, "hub_token": "secret"}, output_dir="x")
OTHER = dataclasses.replace(RECIPE, args={"max_steps": 4}, seed=1)


def test_life_of_a_run(tmp_path: Path) -> None:
    assert inspect_run(tmp_path, RECIPE) is RunState.NEW
    start_run(tmp_path, RECIPE, ["mrt", "train", "x", "hub_token=secret"])
    first = read_run(tmp_path)
    assert inspect_run(tmp_path, RECIPE) is RunState.UNFINISHED
    assert first["command"] == ["mrt", "train", "x", "hub_token=***"]
    assert first["recipe"]["args"] == {"max_steps": 3, "hub_token": "***"}
    assert first["versions"]["python"].startswith("3.")
    start_run(tmp_path, RECIPE, ["mrt", "train", "x"])
    again = read_run(tmp_path)
    assert again["started"] == first["started"]
    assert len(again["resumed"]) == 1
    finish_run(tmp_path, steps=3)
    assert inspect_run(tmp_path, RECIPE) is RunState.FINISHED
    assert read_run(tmp_path)["steps"] == 3
    assert "secret" not in (tmp_path / "run.json").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]  # nothing staged is left behind


def test_another_recipe_is_refused_once_something_was_saved(tmp_path: Path) -> None:
    start_run(tmp_path, RECIPE, [])
    assert inspect_run(tmp_path, OTHER) is RunState.NEW
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(ConfigError) as caught:
        inspect_run(tmp_path, OTHER)
    for part in ("args.max_steps: there 3, now 4", "seed: there 0, now 1", "--fresh", "another output_dir"):
        assert part in str(caught.value)
    assert inspect_run(tmp_path, dataclasses.replace(RECIPE, output_dir="y", description="z")) is RunState.UNFINISHED


def test_checkpoints_of_nobody_are_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(ConfigError, match=r"no run\.json"):
        inspect_run(tmp_path, RECIPE)


@pytest.mark.parametrize("text", ['{"schema_version": 1, "recip', "[]", '{"schema_version": 99}', "\x00"])
def test_a_torn_or_newer_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"run\.json"):
        read_run(tmp_path)


def test_differences_are_counted_beyond_the_first() -> None:
    left, right = {f"k{i}": i for i in range(8)}, {f"k{i}": -1 for i in range(8)}
    shown = differences({"args": left, "output_dir": 1}, {"args": right, "output_dir": 2}, limit=3)
    assert shown == ["args.k0: there 0, now -1", "args.k1: there 1, now -1", "args.k2: there 2, now -1", "and 5 more"]
    assert differences({}, {"seed": 1}) == ["seed: there 'nothing', now 1"]


def test_set_aside_deletes_nothing(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    assert set_aside(run_dir) is None
    for number in (1, 2):
        with locked(run_dir):
            pass
        assert set_aside(run_dir) is None  # only the lock is there
        write_json(run_dir / "run.json", {"number": number})
        assert set_aside(run_dir) == tmp_path / f"run.old-{number}"
    assert json.loads((tmp_path / "run.old-1" / "run.json").read_text()) == {"number": 1}


def test_a_directory_has_one_writer(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from mrt.runs.rundir import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=f"is being written by process {other.pid}"), locked(tmp_path):
            pass
        other.kill()  # a killed process holds nothing
        other.wait()
        with locked(tmp_path):
            pass
    finally:
        other.kill()
        other.communicate()


def test_redact_command() -> None:
    assert redact_command(["--hub-token=x", "args.hub_token=y", "seed=1", "tokens=2"]) == [
        "--hub-token=***",
        "args.hub_token=***",
        "seed=1",
        "tokens=2",
    ]


def test_versions_are_read_without_importing() -> None:
    assert {"python", "torch", "trl"} <= set(versions())
