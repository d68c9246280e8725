"""`mrt eval` with suites, settings, grading again and export: from the command line to what lies in the folder."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mrt.cli import main as cli
from mrt.reasoning.evaluation.export import BOXED, write_lm_eval
from tests.support import FIXTURES

BENCHMARKS = FIXTURES / "benchmarks"
LM_EVAL = os.environ.get("MRT_LM_EVAL") or shutil.which("lm_eval")  # may live in an environment of its own
SMALL = ("--n", "2", "--budgets", "0,6", "--limit", "3", "settings.answer_tokens=12")


def mrt(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any]]:
    code = cli.main([*argv, "--json"])
    out, _ = capsys.readouterr()
    return code, json.loads(out)


def test_a_suite_is_measured_and_graded_again(
    tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "e")
    argv = ("eval", "reasoning/countdown", "--model", str(tiny_dir), "--out", out, "test=20", "high=9", *SMALL)
    code, found = mrt(capsys, *argv)
    assert (code, found["suite"], found["n_problems"], found["n_samples"]) == (0, "countdown", 3, 6)
    stored = json.loads((tmp_path / "e/eval.json").read_text())
    assert (stored["votes"], stored["answer_tokens"], stored["dials"]["test"]) == (4, 12, 20)
    assert set(stored["identity"]) == {"problems", "weights", "tokenizer"}
    assert mrt(capsys, *argv)[1]["accuracy"] == found["accuracy"]  # everything was there
    code, again = mrt(capsys, "eval", out, "--regrade")
    assert (code, again["regraded"]["changed"]) == (0, 0)
    code, refused = mrt(capsys, *argv, "settings.votes=2")
    assert (code, "votes=4 there" in refused["error"]) == (2, True)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["reasoning/math500"], "name it with --model"),
        (["reasoning/svamp", "--model", "m"], "name it with --file"),
        (["reasoning/countdown", "--model", "m", "--problems", "countdown"], "leave --problems out"),
        (["reasoning/countdwon.yaml"], "did you mean 'reasoning/countdown'"),
        (["m", "--problems", "countdown", "--any-file"], "go with a suite"),
        (["m", "--problems", "countdown", "settings.votess=1"], "did you mean 'votes'"),
        (["m", "--problems", "countdown", "settings.seed=1"], "has an option"),
        (["m", "--regrade"], "no evaluation to grade again"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    file = ["--file", str(BENCHMARKS / "math500.jsonl")] if argv[:1] == ["reasoning/math500"] else []
    more = ["--any-file"] if message == "name it with --model" else []
    code, answer = mrt(capsys, "eval", *argv, *file, *more, "--out", str(tmp_path / "x"))
    assert code == 2
    assert message in answer["error"]


def test_a_task_for_another_harness(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "task"
    code, found = mrt(
        capsys, "eval", "reasoning/countdown", "--export", "lm-eval", "--out", str(out), "test=9", "high=9"
    )
    assert (code, found["exported"]) == (0, 9)
    task = yaml.safe_load((out / "task.yaml").read_text())
    rows = [json.loads(line) for line in (out / "task.jsonl").read_text().splitlines()]
    assert Path(task["dataset_kwargs"]["data_files"]["test"]) == (out / "task.jsonl").resolve()
    assert len(rows) == 9
    assert all(row["answers"] and "->" in row["prompt"] for row in rows)
    assert (task["doc_to_text"], task["doc_to_target"]) == ("{{prompt}}", "answers")


def test_what_counts_as_the_answer_there() -> None:
    assert re.findall(BOXED, r"\boxed{9}</think>\boxed{1} so \boxed{2\frac{1}{2}}")[-1] == r"2\frac{1}{2}"
    assert re.findall(BOXED, r"no close tag \boxed{1}") == []
    assert re.findall(BOXED, r"a</think>\boxed{1} b</think> nothing") == [r"1"]


@pytest.mark.slow
@pytest.mark.skipif(LM_EVAL is None, reason="needs lm_eval on the path, or its path in MRT_LM_EVAL")
def test_lm_eval_comes_to_the_same_number(tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Greedy decoding on the same model and problems, sample by sample: reward here, exact match there.

    Only its number of new tokens can be bounded there, so a thought cut here at its budget may go on and end there.
    """
    model = os.environ.get("MRT_LM_EVAL_MODEL") or str(tiny_dir)  # a trained one tells more
    count, tokens = 200, 120
    argv = ("eval", "reasoning/countdown", f"test={count}")
    _, ours = mrt(
        capsys, *argv, "--model", model, "--out", str(tmp_path / "e"), "--n", "1", "--budgets", f"0,{tokens}",
        "settings.temperature=0", "settings.votes=0", "settings.answer_tokens=40",
    )  # fmt: skip
    write_lm_eval(tmp_path / "task", "countdown", {"train": 0, "warmstart": 0, "test": count}, max_tokens=tokens + 41)
    command = [str(LM_EVAL), "--model", "hf", "--model_args", f"pretrained={model},dtype=float32", "--device", "cpu"]
    command += ["--include_path", str(tmp_path / "task"), "--tasks", "task", "--apply_chat_template"]
    command += ["--batch_size", "50", "--output_path", str(tmp_path / "theirs"), "--log_samples"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (tmp_path / "theirs").rglob("samples_task_*.jsonl")
    theirs = {row["doc"]["key"]: row["exact_match"] for row in map(json.loads, file.read_text().splitlines())}
    rows = [json.loads(line) for line in (tmp_path / "e/samples.jsonl").read_text().splitlines()]
    assert len(theirs) == len(rows) == count
    whole = [row for row in rows if not row["truncated"]]
    assert [theirs[row["key"]] for row in whole] == [row["reward"] for row in whole]
    right = sum(theirs[row["key"]] for row in whole)
    assert right / count == pytest.approx(ours["accuracy_by_itself"]["mean"], abs=1e-9)
    (file,) = (tmp_path / "theirs").rglob("results_*.json")
    number = json.loads(file.read_text())["results"]["task"]["exact_match,boxed"]
    assert right / count <= number <= (right + count - len(whole)) / count
