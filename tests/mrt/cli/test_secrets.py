"""A hundred credentials planted in environment, recipe and command line: none may show up in anything written."""

from __future__ import annotations

import random
import shutil
import string
from pathlib import Path

import pytest

from mrt.cli import main as cli

pytestmark = pytest.mark.training

COUNT = 100
NAMES = ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "AWS_SECRET", "GITHUB_TOKEN", "DB_PASSWORD")


def credentials() -> list[str]:
    """In the forms that they have, and some that only their key gives away (the last quarter)."""
    rng = random.Random(0)

    def text(length: int) -> str:
        return "".join(rng.choices(string.ascii_letters + string.digits, k=length))

    def upper(length: int) -> str:
        return "".join(rng.choices(string.ascii_uppercase + string.digits, k=length))

    forms = [lambda: "hf_" + text(34), lambda: "sk-" + text(40), lambda: "ghp_" + text(36), lambda: "AKIA" + upper(16)]
    known = [forms[i % 4]() for i in range(75)]
    return known + [text(24) for _ in range(COUNT - 75)]


def written(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def test_neither_evaluation_nor_model_card_nor_adapter_holds_one(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real run and its evaluation: card, arguments, checkpoint, samples, results, report."""
    monkeypatch.chdir(tmp_path)
    planted = credentials()
    known, keyed, environment = planted[:8], planted[75:79], planted[8:12]
    for number, value in enumerate(environment):
        monkeypatch.setenv(f"{NAMES[number]}", value)
    model = tmp_path / known[0]  # a folder that somebody named after a credential
    shutil.copytree(tiny_dir, model)
    problems = "problems={name: countdown, high: 9, train: 8, warmstart: 0, test: 8}"
    run = [
        "train", "countdown/mrt", problems, f"model={known[0]}", "output_dir=runs/r", "args.max_steps=1",
        "args.per_device_train_batch_size=4", "args.num_generations=4", "args.max_completion_length=32",
        "args.thinking_budget=8", "args.generation_batch_size=4", f"args.run_name={known[1]}",
        f"args.hub_token={keyed[0]}", f"args.hub_model_id=me/{known[2]}",
    ]  # fmt: skip
    assert cli.main([*run, "--json"]) == 0
    evaluation = ["eval", "runs/r/model", "--problems", "countdown", "high=9", "train=0", "warmstart=0", "test=8"]
    evaluation += ["--n", "1", "--limit", "2", "--budgets", "0,4", "settings.answer_tokens=8", "--out", "runs/e"]
    assert cli.main([*evaluation, "--name", known[3], "--json"]) == 0
    page = ["report", "runs/e", "--runs", "runs/r", "--out", "report.html", f"--title={known[4]}"]
    assert cli.main([*page, "--json"]) == 0
    assert cli.main(["compare", "runs/e", "runs/e", "--json"]) == 0
    shutil.rmtree(model)
    said = "".join(capsys.readouterr())
    cards = list(tmp_path.rglob("README.md"))
    assert cards, "the trainer writes a model card"
    everything = said + written(tmp_path)
    assert [(number, value) for number, value in enumerate(planted) if value in everything] == []


def test_none_of_a_hundred_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """25 by environment, 25 in recipes, 25 on the command line, 25 that only the key of their value gives away."""
    monkeypatch.chdir(tmp_path)
    planted = credentials()
    environment, recipes, typed, keyed = (planted[i : i + 25] for i in range(0, COUNT, 25))
    for number, value in enumerate(environment):
        monkeypatch.setenv(f"{NAMES[number % len(NAMES)]}_{number}", value)
    said = ""
    for number in range(25):
        lines = [
            "trainer: tests.support.fake_trainers:FakeTrainer",
            f"description: run of {recipes[number]}",
            f"problems: {{name: countdown, note: {recipes[number]}, api_key: {keyed[number]}}}",
            f"args: {{max_steps: 1, run_name: {recipes[number]}, hub_token: {keyed[number]}}}",
        ]
        source = tmp_path / "secret.yaml"
        source.write_text("\n".join(lines))
        out = f"output_dir=runs/{number}"
        good = ["train", "secret.yaml", "--allow-code", out, f"model={typed[number]}", f"hub_token={keyed[number]}"]
        bad = [
            [*good, f"max_steps={typed[number]}"],  # a wrong type, an unknown key, another recipe's folder, no option
            [*good, f"hub_tokens={typed[number]}"],
            [*good, "max_steps=2", f"run_name={typed[number]}x"],
            ["train", "secret.yaml", f"--token={typed[number]}"],
            ["doctor", "secret.yaml", "--allow-code", f"hub_token={keyed[number]}", f"learning_rate={typed[number]}"],
        ]
        assert cli.main([*good, "--json"]) == 0
        for command in bad:
            assert cli.main([*command, "--json"]) in (1, 2)
        source.unlink()
        said += "".join(capsys.readouterr())
    run_dirs = [str(tmp_path / "runs" / str(number)) for number in range(25)]
    title = f"--title=what {typed[0]} gave"
    assert cli.main(["report", "--runs", *run_dirs, "--out", "report.html", title, "--json"]) == 0
    assert cli.main(["report", f"nowhere-{typed[1]}", "--out", "x.html", f"--baseline={typed[2]}"]) == 2
    said += "".join(capsys.readouterr())
    assert "***" in (tmp_path / "report.html").read_text()
    everything = said + written(tmp_path)
    assert "***" in everything
    assert "runs/24" in everything
    leaked = [(number, value) for number, value in enumerate(planted) if value in everything]
    assert leaked == []
