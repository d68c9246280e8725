"""The command's promises: exit codes, one JSON object on stdout, no traceback, runs that go on or are done."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mrt.cli import main as cli
from tests.support import ROOT

pytestmark = pytest.mark.training

RECIPE = """\
trainer: tests.support.fake_trainers:FakeTrainer
model: some/model
problems: {name: countdown, count: 3}
args: {max_steps: 3}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a recipe that trains nothing."""
    (tmp_path / "r.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mrt(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON object of stdout ({} for none) and stderr."""
    code = cli.main([*argv, "--json"])
    out, err = capsys.readouterr()
    assert out.count("\n") <= 1
    return code, json.loads(out) if out else {}, err


def train(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any], str]:
    return mrt(capsys, "train", "r.yaml", "--allow-code", *argv)


# ---- parsing


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no command given"),
        (["trian"], "did you mean 'train'"),
        (["train"], "the following arguments are required: RECIPE"),
        (["train", "r.yaml", "--frehs"], "did you mean 'fresh'"),
        (["train", "r.yaml", "stray"], "overrides read key=value"),
        (["compare", "a"], "required: B"),
        (["compare", "a", "b", "x=1"], "does not take 'x=1'"),
        (["eval", "m"], "required: --out"),
        (["eval", "m", "--out", "x", "--n", "0"], "must be at least 1"),
        (["eval", "m", "--out", "x", "--problems", "countdown", "--budgets", "1,x"], "should be whole numbers"),
        (["eval", "m", "--out", "x"], "name the problem set"),
        (["eval", "m", "--out", "x", "--seed", "-1"], "'-1' must be a whole number"),
        (["probe", "t", "--model", "m", "--probe", "gild"], "invalid choice: 'gild'"),
        (["generate", "--model", "m", "--budget", "3", "--prompt", " "], "no prompt: give"),
        (["compare", "here", "there"], "no finished evaluation"),
        (["report"], "needs at least one evaluation"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_user_mistakes(folder: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    code, answer, err = mrt(capsys, *argv)
    assert code == 2
    assert message in answer["error"]
    assert answer["error"] in err
    assert "Traceback" not in err


def test_overrides_may_stand_anywhere() -> None:
    ns = cli.parse(["train", "r.yaml", "a=1", "--fresh", "b.c=--x", "--json"])
    assert (ns.recipe, ns.overrides, ns.fresh, ns.json) == ("r.yaml", ["a=1", "b.c=--x"], True, True)


def test_starts_fast_and_without_the_heavy_packages() -> None:
    for arguments in (["--help"], ["--version"], ["doctor", "--json"]):
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "mrt", *arguments], capture_output=True, text=True
        )
        assert time.monotonic() - start < 3
        assert "| torch\n" not in done.stderr
        assert done.stdout
    assert all(check["name"] for check in json.loads(done.stdout)["checks"])


# ---- train


def test_train_writes_its_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, err = train(capsys, "seed=5", "hub_token=abc")
    assert (code, answer["status"], answer["steps"]) == (0, "trained", 3)
    assert answer["metrics"]["train_loss"] is None  # NaN is no JSON
    assert "trainers print to stdout" in err
    run = json.loads((folder / "runs/r/run.json").read_text())
    assert (run["schema_version"], run["finished"], run["steps"], run["recipe"]["seed"]) == (1, True, 3, 5)
    assert run["command"][:2] == ["mrt", "train"]
    assert "abc" not in (folder / "runs/r/run.json").read_text()
    assert (folder / "runs/r/model/weights").is_file()


def test_train_is_done_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(capsys)
    code, answer, err = train(capsys)
    assert (code, answer["status"]) == (0, "already finished")
    assert "nothing to do" in err
    code, answer, _ = train(capsys, "max_steps=4")
    assert code == 2
    assert "args.max_steps: there 3, now 4" in answer["error"]
    code, answer, err = train(capsys, "max_steps=4", "--fresh")
    assert (code, answer["steps"]) == (0, 4)
    assert (folder / "runs/r.old-1/model/weights").is_file()
    assert "runs/r.old-1" in err


def test_human_output_without_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "r.yaml", "--allow-code"]) == 0
    out, err = capsys.readouterr()
    assert "the model is runs/r/model" in out
    assert "trainers print" not in out
    assert "trainers print" in err


def test_interrupted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, err = train(capsys, "run_name=interrupt")
    assert (code, answer) == (130, {})
    assert "the same command resumes from there" in err
    assert json.loads((folder / "runs/r/run.json").read_text())["finished"] is False
    code, answer, _ = train(capsys, "run_name=null")  # nothing had been saved: the recipe may change
    assert (code, answer["status"]) == (0, "trained")


def test_a_recipe_that_cannot_be_built_leaves_no_trace(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, _ = train(capsys, "max_steps=-1")
    assert code == 2
    assert "max_steps cannot be negative" in answer["error"]
    assert not (folder / "runs/r/run.json").exists()


def test_only_the_main_process_writes(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    code, answer, _ = train(capsys)
    assert (code, answer) == (0, {})
    assert not (folder / "runs/r/run.json").exists()


def test_as_a_process(folder: Path) -> None:
    """What only a process shows: a crash is exit code 1 with its traceback, SIGINT is 130 without one."""
    command = [sys.executable, "-m", "mrt", "train", "r.yaml", "--allow-code", "--json"]
    crash = subprocess.run([*command, "run_name=crash"], capture_output=True, text=True)
    assert (crash.returncode, crash.stdout) == (1, "")
    assert "RuntimeError: the work failed" in crash.stderr
    (folder / "runs/r/metrics.jsonl").unlink()
    sleeper = subprocess.Popen([*command, "run_name=sleep"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "runs/r/metrics.jsonl").exists():
            assert time.monotonic() < deadline
            assert sleeper.poll() is None
            time.sleep(0.1)
        second = subprocess.run([*command, "run_name=sleep"], capture_output=True, text=True)
        assert second.returncode == 2
        assert f"is being written by process {sleeper.pid}" in json.loads(second.stdout)["error"]
        sleeper.send_signal(2)
        out, err = sleeper.communicate(timeout=30)
    finally:
        sleeper.kill()
    assert (sleeper.returncode, out) == (130, b""), err
    assert b"Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ["accelerate.commands.launch", "--config_file", str(ROOT / "recipes/accelerate/cpu.yaml")],
        ["torch.distributed.run", "--nproc_per_node", "2"],
    ],
)
def test_under_a_launcher(folder: Path, launcher: list[str]) -> None:
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-m", *launcher, "-m", "mrt", "train", "r.yaml", "--allow-code", "--json"]
    for status in ("trained", "already finished"):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["status"] == status  # one object, however many processes


# ---- the others


def test_doctor(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, _ = mrt(capsys, "doctor", "r.yaml", "--allow-code", "max_stps=3")
    assert code == 1
    assert not answer["ok"]
    assert any("max_steps" in check["found"] for check in answer["checks"] if check["name"] == "recipe")


def test_eval_takes_the_problems_of_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mrt.cli import commands
    from mrt.reasoning.evaluation.command import overrides_of
    from mrt.runs.recipe import load_recipe
    from mrt.runs.rundir import start_run

    start_run(folder / "runs/r", load_recipe("r.yaml", allow_code=True), [])
    ns = cli.parse(["eval", "runs/r/model", "--out", "x", "problems.count=4", "top=9"])
    assert commands._problems_of(ns, overrides_of(ns.overrides)[1]) == ("countdown", {"count": 4, "top": 9})
    ns = cli.parse(["eval", "runs/r", "--out", "x", "--problems", "files"])
    assert commands._problems_of(ns, {}) == ("files", {})


def test_merge_writes_a_model_that_loads_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from mrt.reasoning.models.tiny import save_tiny

    base = str(save_tiny(tmp_path / "base"))
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(str(tmp_path / "run" / "model"))
    assert cli.main(["merge", str(tmp_path / "run")]) == 0
    assert "merged model" in capsys.readouterr().out
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "merged") is not None
    assert cli.main(["merge", str(tmp_path / "run")]) == 2, "what is there is not overwritten"
    assert "is not empty" in capsys.readouterr().err
    assert cli.main(["merge", base]) == 2
    assert "holds no adapter" in capsys.readouterr().err
