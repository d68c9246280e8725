"""The evaluation across attempts: its figures by hand, beside players and exact values."""

from __future__ import annotations

import json

import pytest

from evals.reasoning.attempts import beside, main, measure
from mrt.control.envs.text import EnvInText
from mrt.reasoning.attempts.countdown import CountdownAttempts
from mrt.reasoning.attempts.form import Form
from mrt.reasoning.attempts.manner import make_manner
from mrt.reasoning.engines.opening import Opened
from mrt.reasoning.models.tiny import build_model, build_tokenizer
from tests.support.scripted_engine import ScriptedEngine

TOKENIZER = build_tokenizer()
END = TOKENIZER.eos_token_id
SIZES = {"high": 9, "train": 40, "warmstart": 8, "test": 8}


def test_shares_solved_after_each_attempt():
    env = CountdownAttempts(attempts=3, split="test", **SIZES)
    drawn = [env.sample(0, index).data["problem"] for index in range(4)]
    right = [[*TOKENIZER.encode(f"\\boxed{{{one.solution}}}", add_special_tokens=False), END] for one in drawn]
    wrong = [*TOKENIZER.encode("\\boxed{1}", add_special_tokens=False), END]
    script = [[right[0], wrong, wrong, wrong], [right[1], wrong, wrong], [right[2], [END]]]
    opened = Opened(ScriptedEngine(script), TOKENIZER, None)  # type: ignore[arg-type]
    found = measure(opened, env, make_manner(Form(TOKENIZER), env, choose=False), count=4, seed=0)
    assert [found["solved_after"][str(k)]["mean"] for k in (1, 2, 3)] == [0.25, 0.5, 0.75]
    assert found["unread"] == pytest.approx(1 / 3 / 4)
    assert found["reward"]["mean"] == pytest.approx(2.9 / 4)


def test_regret_counts_the_means_of_the_arms():
    env = EnvInText("bernoulli-bandit", arms=2, pulls=2)
    arm = [TOKENIZER.encode(text, add_special_tokens=False) for text in "01"]
    opened = Opened(ScriptedEngine([[arm[0]] * 3, [arm[1]] * 3]), TOKENIZER, None)  # type: ignore[arg-type]
    found = measure(opened, env, make_manner(Form(TOKENIZER, "plain"), env, choose=True), count=3, seed=7)
    means = env.tasks.batch(7, range(3))["means"]
    assert found["regret"]["mean"] == pytest.approx(float((2 * means.amax(1) - means.sum(1)).mean()))
    assert found["lost"] == pytest.approx([float((means.amax(1) - means[:, k]).mean()) for k in (0, 1)])
    assert "solved_after" not in found


def test_players_and_exact_values_stand_beside():
    found = beside(EnvInText("bernoulli-bandit", arms=2, pulls=30), count=300)
    assert found["Bayes-optimal, exact"] == pytest.approx(1.08, abs=0.01)
    assert found["Thompson"]["low"] < 1.72 < found["Thompson"]["high"]
    assert found["greedy"]["low"] < 1.28 < found["greedy"]["high"]
    assert found["random"]["low"] < 5.0 < found["random"]["high"]
    assert beside(CountdownAttempts(**SIZES), count=3) == {}


def test_the_program(tmp_path, capsys):
    model = build_model(TOKENIZER, hidden=16, layers=1, heads=2)
    model.save_pretrained(tmp_path / "tiny")
    TOKENIZER.save_pretrained(tmp_path / "tiny")
    given = [str(tmp_path / "tiny"), "--recipe", "attempts/bandit-two-arms", "--tasks", "pulls=3", "--count", "8"]
    assert main([*given, "--out", str(tmp_path / "found.json")]) == 0
    assert "Bayes-optimal, exact" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["task_options"]["pulls"] == 3
    assert len(found["lost"]) == 3
    assert main([str(tmp_path / "tiny")]) == 2
    assert "--recipe" in capsys.readouterr().err
