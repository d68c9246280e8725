"""The study of systems that explore on purpose: its recipes, results beside those of progress credit, a tiny run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evals.control import exploration_study
from evals.control.exploration_study import SYSTEMS, Cell, System, main
from evals.control.progress_study import ARMS, PLAIN, SETTINGS, Job, run
from mrt.control.envs import make_env
from mrt.runs.recipe import load_recipe

CELLS = [(env, arm) for env, systems in SYSTEMS.items() for arm in systems]


@pytest.mark.parametrize(("env", "arm"), CELLS)
def test_a_cell_plays_the_environment_of_the_study(env: str, arm: str) -> None:
    """The environment and episodes of the arms of progress credit, and no reward that these do not have."""
    cell, plain = Cell(env, arm, 1), Job(env, PLAIN, 1)
    ours, theirs = (load_recipe(*job.recipe()) for job in (cell, plain))
    left, right = (make_env(**{k: v for k, v in recipe.tasks.items() if k != "split"}) for recipe in (ours, theirs))
    assert (left.name, left.spec) == (right.name, right.spec)
    assert vars(left).keys() == vars(right).keys()
    assert ours.args.get("critic_reward", "paid") == "paid"
    assert arm not in ARMS
    assert cell.setting.steps == plain.setting.steps
    assert cell.weight is None
    assert cell.digest() != plain.digest() != Cell(env, arm, 2).digest()


@pytest.mark.training
def test_a_tiny_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("tasks.episodes=3", "tasks.steps=12", "args.critic_reward=paid", "policy.explore_episodes=2",
             "policy.hidden_size=8", "policy.encoder_size=8", "args.random_steps=24", "args.updates_per_step=2",
             "args.per_device_train_batch_size=2", "args.train_tasks=3", "args.batch_size=4")  # fmt: skip
    own = SYSTEMS["semicircle"]["metacure"]
    monkeypatch.setitem(SYSTEMS["semicircle"], "metacure", System(own.recipe, small, 2))
    cell = Cell("semicircle", "metacure", 1, steps=60, held=5)
    found: dict[str, Any] = run(cell)
    assert found["arm"] == "metacure"
    assert found["alpha"] is None
    assert found["curve"][-1]["env_steps"] >= 60
    assert found["curve"][-1]["probe_steps"] == 0
    path = cell.path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(found))
    beside = {**found, "arm": PLAIN}
    (path.parent / f"{PLAIN}.json").write_text(json.dumps(beside))
    capsys.readouterr()
    assert main(["--cached", "--json", "--store", str(tmp_path), "--env", "semicircle", "--seeds", "1"]) == 0
    arms = json.loads(capsys.readouterr().out)["semicircle"]["arms"]
    assert set(arms) == {PLAIN, "metacure"}
    assert arms["metacure"]["over_plain"] is None, "one seed says nothing of a difference"
    assert main(["--cached", "--store", str(tmp_path), "--env", "bus", "--seeds", "1"]) == 2
    assert SETTINGS["semicircle"].steps == exploration_study.SETTINGS["semicircle"].steps
