"""The study of progress credit: figures on made-up curves, arms that differ in the credit alone, and one tiny run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from evals.control import progress_study
from evals.control.exploring import EXPLORING, explored
from evals.control.progress_figures import figures, paired, regret_of, steps_to, summarise, table
from evals.control.progress_study import ARMS, PLAIN, SEEDS, SETTINGS, STORE, TABLE, Job, levels, main, run
from mrt.control.agent import Agent, Choice
from mrt.control.envs import make_tasks
from mrt.control.envs.buses import RIDE
from mrt.control.rollout import rollout
from mrt.errors import ConfigError
from mrt.runs.recipe import load_recipe


def made_up(values: list[float], probes: float = 0.0, explores: float = 1.0, **named: Any) -> dict[str, Any]:
    """A result whose curve is measured every 100 environment steps; oracle 10, random play 0."""
    curve = [
        {"env_steps": 100.0 * i, "probe_steps": 100.0 * i * probes, "value": value, "explores": explores}
        for i, value in enumerate(values)
    ]
    facts = {"env": "informative", "arm": PLAIN, "seed": 1, "alpha": None, "minutes": 1.0}
    return {**facts, "floor": 0.0, "oracle": 10.0, "curve": curve, **named}


def test_steps_to_the_threshold_count_probe_steps() -> None:
    assert steps_to(made_up([0, 4, 9, 3])["curve"], 5.0) == 200
    assert steps_to(made_up([0, 4, 9, 3], probes=0.5)["curve"], 5.0) == 300
    assert steps_to(made_up([6])["curve"], 5.0) == 0
    assert steps_to(made_up([0, 4, 4])["curve"], 5.0) is None


def test_figures_of_an_arm() -> None:
    """Regrets 0.2, 0.4, 0.6: mean 0.4, standard error 0.2 / sqrt 3; two of three explore, two reach 5."""
    runs = {1: made_up([0, 8], explores=0.9), 2: made_up([0, 6], explores=0.6), 3: made_up([0, 4], explores=0.49)}
    found = figures(runs, 5.0)
    assert [regret_of(one) for one in runs.values()] == pytest.approx([0.2, 0.4, 0.6])
    assert found["regret"] == pytest.approx({"mean": 0.4, "se": 0.2 / 3**0.5})
    assert found["return"]["mean"] == pytest.approx(6.0)
    assert (found["explore"], found["reached"], found["steps_to_threshold"]) == (2, 2, [100, 100, None])
    assert figures({1: made_up([0, 8])}, 5.0)["regret"]["se"] is None


def test_differences_are_paired_by_seed() -> None:
    """Differences -0.1, -0.2, -0.3 on the seeds that both have: mean -0.2, 4.303 standard errors of 0.1 / sqrt 3."""
    base = {seed: made_up([value]) for seed, value in ((1, 2), (2, 4), (3, 6), (9, 0))}
    ours = {seed: made_up([value]) for seed, value in ((1, 3), (2, 6), (3, 9), (8, 0))}
    found = paired(ours, base)
    assert found is not None
    half = 4.303 * 0.1 / 3**0.5
    assert found == pytest.approx({"mean": -0.2, "low": -0.2 - half, "high": -0.2 + half})
    assert paired({1: made_up([1])}, base) is None


def test_the_table_shows_levels_and_arms(tmp_path: Path) -> None:
    paths = []
    for arm, values in ((PLAIN, (2, 4, 6)), ("exact", (3, 6, 21))):
        for seed, value in enumerate(values, 1):
            path = tmp_path / f"{arm}{seed}.json"
            alpha = None if arm == PLAIN else 1.0
            path.write_text(json.dumps(made_up([0, value], arm=arm, seed=seed, alpha=alpha, probes=0.25)))
            paths.append(path)
    summary = summarise([*paths, tmp_path / "missing.json"], SETTINGS, PLAIN)
    lines = table(summary).splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1
    assert "threshold 20.00, oracle 10.00" in lines[2]
    assert lines[3].startswith(
        "| informative | `gae` | - | 3 | 3 of 3 | 0 of 3 | - | 4.00 ± 1.15 | 0.600 ± 0.115 | - | 20 %"
    )
    assert lines[4].startswith("| informative | `exact` | 1 | 3 | 3 of 3 | 1 of 3 | - |")
    with pytest.raises(ConfigError, match="nothing is stored"):
        summarise([], SETTINGS, PLAIN)


def test_the_stored_table_is_that_of_the_stored_results() -> None:
    """Written by --results after storing."""
    jobs = [Job(env, arm, seed) for env in SETTINGS for arm in SETTINGS[env].arms for seed in SEEDS]
    summary = summarise([job.path(STORE) for job in jobs], SETTINGS, PLAIN)
    assert (STORE / TABLE).read_text(encoding="utf-8") == table(summary) + "\n"
    assert all(job.is_stored(STORE) for job in jobs if job.path(STORE).is_file())  # and made with these settings


@pytest.mark.parametrize("env", sorted(SETTINGS))
def test_arms_differ_in_the_credit_and_its_probe_alone(env: str) -> None:
    recipes = {arm: load_recipe(*Job(env, arm, 3).recipe()).to_dict() for arm in SETTINGS[env].arms}
    plain = recipes[PLAIN]
    assert plain["args"]["credit"] == "gae"
    for recipe in recipes.values():
        assert recipe["seed"] == 3
        args = recipe["args"] | plain["args"]
        changed = {key for key in args if recipe["args"].get(key) != plain["args"].get(key)}
        assert changed <= {"credit", "credit_options", "probe", "probe_samples"}
        assert {key: value for key, value in recipe.items() if key != "args"} == {
            key: value for key, value in plain.items() if key != "args"
        }
    assert set(SETTINGS[env].arms) <= set(ARMS)
    assert env in EXPLORING


@pytest.mark.parametrize("env", sorted(SETTINGS))
def test_thresholds_lie_between_not_exploring_and_the_oracle(env: str) -> None:
    floor, oracle = levels(make_tasks(**load_recipe(*Job(env, PLAIN, 0).recipe()).tasks), 50)
    setting = SETTINGS[env]
    assert max(floor, setting.without) < setting.threshold < oracle


class Always(Agent):
    """One action, whatever happens."""

    def __init__(self, *actions: int) -> None:
        self.actions = actions

    def init_state(self, rows: int) -> int:
        return 0

    def act(self, seen: Any, state: int, greedy: bool = False, generator: Any = None) -> Choice:
        zeros = torch.zeros(len(seen["done"]))
        action = self.actions[min(state, len(self.actions) - 1)]
        return Choice(torch.full_like(zeros, action).long(), zeros, zeros, state + 1)


@pytest.mark.parametrize(
    ("options", "exploring", "idle"),
    [
        ({"name": "informative-bandit", "pulls": 1, "episodes": 5}, (10, 0), (0,)),
        ({"name": "hallway", "half": 4, "dead_end": 1}, (2, 3, 0), (0,)),
        ({"name": "dream-bus"}, (1, RIDE), (RIDE,)),  # at the centre there is no bus
        ({"name": "dream-map"}, (2, 2, 2, 3, 4), (1, RIDE)),
    ],
    ids=["informative", "hallway", "bus", "map"],
)
def test_who_explores(options: dict[str, Any], exploring: tuple[int, ...], idle: tuple[int, ...]) -> None:
    tasks = make_tasks(**options)
    params = tasks.batch(0, range(5))
    for actions, expected in ((exploring, True), (idle, False)):
        played = rollout(tasks.env, Always(*actions), params)
        assert explored(tasks.env, played).tolist() == [expected] * 5
    with pytest.raises(ConfigError, match="nothing says what exploring is in bernoulli-bandit"):
        explored(make_tasks("bernoulli-bandit").env, played)


@pytest.mark.training
def test_a_tiny_run_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two collections an arm: stored with its curve, printed, not run again, and the same when it is run again."""
    monkeypatch.setitem(SETTINGS, "informative", progress_study.Setting(2_000, 4, 20.0, 11.0))
    command = ["--env", "informative", "--seeds", "7", "--store", str(tmp_path)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert printed.count("| informative |") == 3
    stored = {arm: json.loads((tmp_path / "informative" / "seed7" / f"{arm}.json").read_text()) for arm in ARMS}
    for arm, one in stored.items():
        steps = [point["env_steps"] + point["probe_steps"] for point in one["curve"]]
        assert steps == sorted(steps)
        assert steps[-1] >= 2_000 > steps[-2]
        assert (one["curve"][-1]["probe_steps"] > 0) == (arm == "episodes")
        assert one["oracle"] == pytest.approx(20.55)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert main([*command, "--json"]) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == before
    again = run(Job("informative", "exact", 7))
    assert again["curve"] == stored["exact"]["curve"]
    assert main([*command[:-1], str(tmp_path / "empty"), "--cached"]) == 2
