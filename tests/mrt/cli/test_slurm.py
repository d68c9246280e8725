"""`mrt train RECIPE --slurm ...`: what is refused before anything is written, the file, and docs/multi-node.md."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mrt.cli import main as cli
from mrt.errors import ConfigError
from mrt.runs.recipe import load_recipe, recipe_folder
from mrt.runs.rundir import RunState, inspect_run, start_run
from tests.support import ROOT

pytestmark = pytest.mark.training

PROBLEMS = '{"question": "1+1?", "answer": "It is two.\\n#### 2"}\n{"question": "1+2?", "answer": "#### 3"}\n'
TOY = """\
trainer: tests.support.fake_trainers:FakeTrainer
problems: {name: countdown, train: 3, warmstart: 0, test: 0}
"""
PAGE = ROOT / "docs" / "multi-node.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a recipe that trains nothing, problems, and no sbatch on PATH."""
    (tmp_path / "toy.yaml").write_text(TOY)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "gsm8k_train.jsonl").write_text(PROBLEMS)
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def train(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any]]:
    code = cli.main(["train", *argv, "--json"])
    return code, json.loads(capsys.readouterr().out)


TOY_RUN = ("toy.yaml", "--allow-code")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((*TOY_RUN, "--slurm", "nods=2", "--dry-run"), "did you mean 'nodes'"),
        ((*TOY_RUN, "--slurm", "nodes=2", "--dry-run", "max_stesp=3"), "did you mean 'max_steps'"),
        ((*TOY_RUN, "--slurm", "nodes=2", "--dry-run", "max_steps=-1"), "max_steps cannot be negative"),
        ((*TOY_RUN, "--slurm", "nodes=2", "--dry-run", "problems.hihg=3"), "did you mean 'high'"),
        ((*TOY_RUN, "--slurm", "nodes=2", "--dry-run", "hub_token=abc"), "'hub_token' would stand in the script"),
        ((*TOY_RUN, "--slurm", "nodes=2", "--fresh"), "--fresh does not go with --slurm"),
        ((*TOY_RUN, "--slurm", "nodes=2", "--seeds", "2"), "--seeds does not go with --slurm"),
        ((*TOY_RUN, "--slurm", "nodes=2,vllm=1"), "FakeTrainer samples without vLLM. Cure: vllm=0"),
        ((*TOY_RUN, "--slurm", "nodes=2,config=fsdp"), "neither a file nor one of fsdp2, multi_gpu, single_gpu, zero3"),
        ((*TOY_RUN, "--slurm", "nodes=2,config=single_gpu"), "with 16 processes: take multi_gpu"),
        ((*TOY_RUN, "--slurm", "nodes=2", "model=runs/nowhere/model"), "there is no model runs/nowhere/model"),
        ((*TOY_RUN, "--dry-run"), "--dry-run goes with --slurm"),
        (("math/mrt", "--slurm", "nodes=2", "problems.path=none.jsonl"), "no such file: none.jsonl"),
        (("math/mrt", "--slurm", "nodes=2", "args.num_generations=6"), "divisible by the number of generations"),
        (("math/mrt", "--slurm", "nodes=2,gpus=3", "args.num_generations=24"), "a group of 24 rows would be split"),
        (("math/mrt", "--slurm", "nodes=2,vllm=1", "model=adapter"), "`mrt merge adapter` writes one"),
    ],
)
def test_what_cannot_run_leaves_no_trace(
    folder: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], message: str
) -> None:
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    code, answer = train(capsys, *argv)
    assert code == 2
    assert message in answer["error"]
    assert not (folder / "runs").exists()


def test_a_dry_run_prints_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *TOY_RUN, "--slurm", "nodes=2,gpus=4", "--dry-run", "max_steps=5"]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("#!/bin/bash\n")
    assert "--num_machines 2 --num_processes 8 " in out
    assert "train=(-m mrt train toy.yaml --allow-code max_steps=5)" in out
    assert "#SBATCH --job-name=toy\n" in out
    assert not (folder / "runs").exists()


def test_without_sbatch_the_file_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = train(capsys, *TOY_RUN, "--slurm", "nodes=2")
    assert code == 2
    assert "there is no sbatch on this machine: runs/toy/train.sbatch is written" in answer["error"]
    assert (folder / "runs/toy/train.sbatch").read_text().startswith("#!/bin/bash\n")


@pytest.mark.parametrize("accepted", [True, False])
def test_a_job_is_submitted(folder: Path, capsys: pytest.CaptureFixture[str], accepted: bool) -> None:
    sbatch = folder / "bin" / "sbatch"
    sbatch.write_text('#!/bin/sh\necho "Submitted $1"\n' if accepted else "#!/bin/sh\necho bad account >&2\nexit 1\n")
    sbatch.chmod(0o755)
    code, answer = train(capsys, *TOY_RUN, "--slurm", "nodes=2")
    if accepted:
        assert (code, answer["status"], answer["said"]) == (0, "submitted", "Submitted runs/toy/train.sbatch")
    else:
        assert (code, answer["error"]) == (2, "sbatch refused runs/toy/train.sbatch: bad account")


def test_a_job_that_goes_on_may_find_its_server_elsewhere(folder: Path) -> None:
    """The address of the server is no part of what decides the result; other arguments are."""
    served = ["args.use_vllm=true", "args.vllm_mode=server", "args.vllm_server_base_url=http://node7:8000"]
    first = load_recipe("math/mrt", served)
    run = folder / "run"
    start_run(run, first, ["mrt"])
    (run / "checkpoint-1").mkdir()
    moved = load_recipe("math/mrt", [*served, "args.vllm_server_base_url=http://node9:8001"])
    assert first.args["vllm_server_base_url"] != moved.args["vllm_server_base_url"]
    assert inspect_run(run, moved) is RunState.UNFINISHED
    with pytest.raises(ConfigError, match=r"args\.vllm_mode: there 'server', now 'colocate'"):
        inspect_run(run, load_recipe("math/mrt", [*served, "args.vllm_mode=colocate"]))


# ---- the page


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_page_prints_what_the_command_prints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    command, script = fenced(page, "console")[0], fenced(page, "bash")[0]
    words = command.removeprefix("$ mrt ").replace("\\\n", " ")
    argv = [one.strip("'\"") for one in re.findall(r"'[^']*'|\"[^\"]*\"|\S+", words)]
    assert cli.main(argv) == 0
    printed = capsys.readouterr().out.replace(str(recipe_folder()), "recipes")
    assert script == printed
    done = subprocess.run(["/bin/bash", "-n"], input=script, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_key_of_a_job_and_every_flag_of_the_server_is_explained() -> None:
    from dataclasses import fields

    from mrt.runs.slurm import SERVE, Job

    page = PAGE.read_text(encoding="utf-8")
    table = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert table == {one.name for one in fields(Job)}
    flags = [one for one in SERVE if one.startswith("--")] + ["VLLM_SERVER_DEV_MODE=1"]
    for text in (page, (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")):
        assert all(flag in text for flag in flags)
