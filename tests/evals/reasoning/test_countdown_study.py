"""The study's figures from stored results, by hand; what is stored decides what still runs."""

import json
import subprocess
import sys

import numpy as np
import pytest

from evals.reasoning import countdown_search
from evals.reasoning.countdown_study import ARMS, OURS, Study, main
from evals.reasoning.study import BASELINE, WARM_START, N
from evals.reasoning.study_figures import read_stored, summarise, table
from mrt.errors import ConfigError
from mrt.runs.recipe import load_recipe
from mrt.runs.rundir import write_json
from tests.support import ROOT

BUDGETS = 9


def stored(study: Study, seed: int, arm: str, start: float, slope: float, keys: str = "k") -> None:
    """40 problems whose chance of being right grows linearly with the budget."""
    rng = np.random.default_rng(seed)
    levels = np.clip(start + slope * np.arange(BUDGETS), 0, 1)
    correct = rng.binomial(N, levels, size=(40, BUDGETS))
    path = study.stored(seed, arm)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(
            {
                "digest": study.digest(seed, arm),
                "recipe": {"problems": {"name": "countdown", "train": 10, "warmstart": 10, "test": 40}},
                "keys_sha256": keys,
                "correct": correct.tolist(),
                "regret": (1 - levels.mean() + 0.01 * rng.standard_normal(40)).tolist(),
                "tokens": [30.0] * 40,
                "cost": {} if arm == WARM_START else {"total": 2e6, "sampled": 1e6, "probed": 2.5e5},
                "updates": 10,
                "minutes": 1.5,
            }
        )
    )


@pytest.fixture
def study(tmp_path):
    study = Study("three", tmp_path / "runs", tmp_path / "store")
    for seed in (0, 1):
        stored(study, seed, WARM_START, 0.1, 0.01)
        stored(study, seed, BASELINE, 0.1, 0.04)
        stored(study, seed, OURS, 0.1, 0.08)
    return study


def test_figures_from_what_is_stored(study):
    summary = summarise(study, read_stored(study, [0, 1], list(ARMS)), [0, 1])
    assert list(summary["arms"]) == [WARM_START, BASELINE, OURS]
    ours = summary["arms"][OURS]
    expected = np.mean([json.loads(study.stored(s, OURS).read_text())["correct"] for s in (0, 1)], axis=(0, 1))[-1] / N
    assert ours["accuracy"]["mean"] == pytest.approx(expected)
    assert ours["accuracy"]["low"] < expected < ours["accuracy"]["high"]
    assert ours["probed_over_sampled"] == [0.25, 0.25]
    gain = summary["accuracy_gain"]
    assert gain["mean"] == pytest.approx(expected / summary["arms"][WARM_START]["accuracy"]["mean"])
    assert summary["regret_minus_grpo"]["high"] < 0
    ratio = summary["tokens_at_equal_accuracy"]  # the baseline needs 120 tokens for what ours has at about 60
    assert ratio["low"] < 2 < ratio["high"] or ratio["mean"] == pytest.approx(2, abs=0.3)
    assert 0 < summary["random_floor"] < 0.3
    text = table(summary)
    assert "random 0." in text
    assert "oracle 1" in text
    assert text.count("\n") == 4


def test_only_what_is_missing_runs(study):
    names = [step.name for step in study.steps([0, 1], [WARM_START, BASELINE, OURS])]
    # Results are there, but the warm start's weights are not: whoever needs them trains it again.
    assert names == [f"{what}{WARM_START}-{seed}" for seed in (0, 1) for what in ("", "eval-", "store-")]
    study.stored(0, OURS).unlink()
    names = [step.name for step in study.steps([0], [WARM_START, BASELINE, OURS])]
    assert [f"{OURS}-0", f"eval-{OURS}-0", f"store-{OURS}-0"] == names[-3:]
    content = json.loads(study.stored(0, BASELINE).read_text())
    study.stored(0, BASELINE).write_text(json.dumps(content | {"digest": "of other settings"}))
    assert f"{BASELINE}-0" in [step.name for step in study.steps([0], [WARM_START, BASELINE])]


def test_a_missing_store_and_foreign_problems_are_one_line(study, capsys):
    nowhere = ["--cached", "--store", str(study.store / "nowhere")]
    assert main(nowhere) == 2
    assert "nothing is stored under" in capsys.readouterr().err
    stored(study, 1, OURS, 0.1, 0.08, keys="others")
    assert main(["--cached", "--seeds", "0", "1", "--store", str(study.store)]) == 2
    assert "different problems" in capsys.readouterr().err
    assert main(["--cached", "--seeds", "0", "--json", "--store", str(study.store)]) == 0
    assert json.loads(capsys.readouterr().out)["seeds"] == [0]


def test_the_search_changes_one_thing_a_setting_and_never_sees_the_studys_problems(tmp_path, capsys):
    known = countdown_search.settings()
    search = countdown_search.Search("habits", tmp_path / "runs", tmp_path / "store", extra=known)
    for name, arm in known.items():
        base = known[name.split("-")[0]]
        assert len(arm.overrides) - len(base.overrides) == (name != name.split("-")[0]), name
        assert search.digest(100, name)  # the recipe takes the setting
    assert len({search.digest(100, name) for name in known}) == len(known)
    (evaluation,) = (s for s in search.steps([100], [BASELINE]) if s.name == "eval-grpo-100")
    assert "--split=train" in evaluation.command
    assert "--limit=600" in evaluation.command
    assert countdown_search.main(["--cached", "--store", str(tmp_path)]) == 2
    assert "nothing is stored" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_study_in_small(tmp_path):
    """Two updates and eight problems an arm, then again: nothing is left to do, and the seed agrees with itself."""
    command = [sys.executable, "-m", "evals.reasoning.countdown_study", "--smoke", "--seeds", "0", "--json"]
    command += ["--arms", OURS, "--runs", str(tmp_path / "runs"), "--store", str(tmp_path / "store")]
    for more in ([], [], ["--check-seed", "0"]):
        done = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["arms"][OURS]["equal"] is True


def test_a_finished_run_of_other_settings_is_not_taken_for_this_one(study):
    """It was, once: its result then stood under the new settings' digest."""
    study.stored(0, BASELINE).unlink()
    recipe, overrides = study.recipe(0, BASELINE)
    other = load_recipe(recipe, [*overrides, "args.learning_rate=0.5"])
    folder = study.folder(0, BASELINE)
    (folder / "model").mkdir(parents=True)
    write_json(folder / "run.json", {"schema_version": 1, "finished": True, "recipe": other.to_dict()})
    (step,) = (s for s in study.steps([0], [BASELINE]) if s.name == f"{BASELINE}-0")
    with pytest.raises(ConfigError, match="belongs to another recipe"):
        step.finished()


def test_the_quickstart_trains_what_the_study_measured(tmp_path):
    """Its numbers on the front page are those of the arm `mrt_pooled` and of its family's warm start."""
    from mrt.cli.quickstart import FAMILIES as SHOWN
    from mrt.cli.quickstart import FULL

    study = Study("habits", tmp_path, tmp_path)
    theirs = load_recipe(*study.recipe(3, "mrt_pooled"))
    ours = load_recipe(f"countdown/{SHOWN['habits'].ours}")
    limits = {"max_steps": 0}  # neither arm comes near: both stop at their cost
    assert ours.args | limits == theirs.args | limits
    assert (ours.problems, ours.trainer) == (theirs.problems, theirs.trainer)
    assert SHOWN["habits"].warmstart == study.settings.warmstart
    assert (FULL.n, FULL.budgets, FULL.problems) == (N, study.settings.budgets, study.problems)
