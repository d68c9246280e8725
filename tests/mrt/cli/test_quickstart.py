"""The plan of the quickstart: which commands, after which, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mrt.cli import quickstart
from mrt.errors import ConfigError
from mrt.runs.rundir import write_json
from mrt.runs.steps import Progress


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "recipes" / "countdown"
    folder.mkdir(parents=True)
    for name in (*quickstart.ARMS, "mrt_verifier"):
        (folder / f"{name}.yaml").write_text(f"description: {name}")
    monkeypatch.setattr(quickstart, "recipe_folder", lambda: tmp_path / "recipes")
    return folder


@pytest.mark.parametrize("family", ["habits", "three"])
def test_both_arms_start_from_the_warm_start_and_differ_in_nothing_else(
    family: str, recipes: Path, tmp_path: Path
) -> None:
    warm, grpo, mrt = (quickstart._training(tmp_path, arm, quickstart.FULL, 7, family) for arm in quickstart.ARMS)
    assert (warm.needs, grpo.needs, mrt.needs) == ((), ("warmstart",), ("warmstart",))
    ours = [part.replace("mrt_verifier", "mrt") for part in mrt.command]
    assert [part.replace("grpo", "mrt") for part in grpo.command] == ours
    assert any(part.endswith("/mrt_verifier.yaml") for part in mrt.command) == (family == "habits")
    assert ("args.recheck=0.4" in warm.command) == (family == "habits"), "attempts that get nowhere"
    assert f"model={tmp_path / 'warmstart' / 'model'}" in mrt.command
    assert {"seed=7", "--json", "train"} <= set(warm.command)
    assert not any(part.startswith("args.") for part in mrt.command)
    assert "args.max_steps=2" in quickstart._training(tmp_path, "mrt", quickstart.SMOKE, 7, family).command


def test_a_step_is_finished_by_its_result(recipes: Path, tmp_path: Path) -> None:
    training = quickstart._training(tmp_path, "mrt", quickstart.FULL, 0, "habits")
    evaluation = quickstart._evaluation(tmp_path, "mrt", quickstart.FULL, 0)
    report = quickstart._report(tmp_path, "habits")
    assert [step.finished() for step in (training, evaluation, report)] == [False] * 3
    write_json(
        tmp_path / "mrt" / "run.json", {"schema_version": 1, "finished": False, "recipe": {"args": {"max_steps": 60}}}
    )
    (tmp_path / "mrt" / "metrics.jsonl").write_text('{"step": 3, "reward": 0.25}\n')
    assert not training.finished()
    assert training.progress() == Progress(3, 60, "reward 0.250")
    write_json(tmp_path / "mrt" / "run.json", {"schema_version": 1, "finished": True})
    assert training.finished()
    (tmp_path / "eval" / "mrt").mkdir(parents=True)
    (tmp_path / "eval" / "mrt" / "samples.jsonl").write_text("{}\n{}\n")
    assert evaluation.progress() == Progress(2, 4000)
    write_json(tmp_path / "eval" / "mrt" / "results.json", {})
    assert evaluation.finished()
    (tmp_path / "report.html").touch()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "report.json").write_text(json.dumps({"report": str(tmp_path / "report.html")}) + "\n")
    assert report.finished()
    assert report.needs == ("eval-warmstart", "eval-grpo", "eval-mrt")


def test_what_was_begun_otherwise_is_refused(recipes: Path, tmp_path: Path) -> None:
    quickstart._agree_on_settings(tmp_path, quickstart.FULL, 0, "three")
    quickstart._agree_on_settings(tmp_path, quickstart.FULL, 0, "three")
    with pytest.raises(ConfigError, match="family: there 'three', now 'habits'"):
        quickstart._agree_on_settings(tmp_path, quickstart.FULL, 0, "habits")
    with pytest.raises(ConfigError, match="seed: there 0, now 1"):
        quickstart._agree_on_settings(tmp_path, quickstart.FULL, 1, "three")
    with pytest.raises(ConfigError, match=r"evaluation\.n: there 4, now 2"):
        quickstart._agree_on_settings(tmp_path, quickstart.SMOKE, 0, "three")
    (recipes / "mrt.yaml").write_text("description: another")
    with pytest.raises(ConfigError, match=r"recipes\.mrt"):
        quickstart._agree_on_settings(tmp_path, quickstart.FULL, 0, "three")
    (recipes / "mrt.yaml").unlink()
    with pytest.raises(ConfigError, match="is the installation complete"):
        quickstart._agree_on_settings(tmp_path, quickstart.FULL, 0, "three")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_interrupted_and_gone_on(tmp_path: Path) -> None:
    """The real thing, a few steps of everything: interrupted while both arms train, finished by the same command."""
    command = [sys.executable, "-m", "mrt", "quickstart", "--smoke", "--out", "quick", "--json"]
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out = tmp_path / "quick"
    while not all((out / arm / "run.json").is_file() for arm in ("grpo", "mrt")):
        assert first.poll() is None
        time.sleep(0.2)
    first.send_signal(signal.SIGINT)
    answer, errors = first.communicate(timeout=60)
    assert (first.returncode, answer) == (130, b"")
    assert b"the same command resumes from there" in errors
    for arm in ("grpo", "mrt"):  # nobody trains on
        holder = int((out / arm / ".lock").read_text())
        with pytest.raises(ProcessLookupError):
            os.kill(holder, 0)
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert "warmstart: finished before" in second.stderr
    found = json.loads(second.stdout)
    assert [result["name"] for result in found["results"]] == list(quickstart.ARMS)
    assert (out / "report.html").stat().st_size > 10_000
    assert found["timings"]["peak_resident_gib"] < 4
    third = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert json.loads(third.stdout)["results"] == found["results"]
    assert third.stderr.count("finished before") == 7
