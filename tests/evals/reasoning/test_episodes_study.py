"""The study of the number of episodes: one dial, one warm start a seed, and the theory behind it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evals.reasoning import episodes_picture, episodes_theory
from evals.reasoning.episodes_study import DIAL, FAMILIES, OURS, Study, main
from evals.reasoning.study import BASELINE, WARM_START, N
from mrt.errors import ConfigError
from mrt.runs.recipe import load_recipe
from tests.support import ROOT


def stored(study: Study, seed: int, arm: str, slope: float) -> None:
    """40 problems whose chance of being right grows linearly with the budget."""
    rng = np.random.default_rng(seed)
    budgets = len(study.settings.budgets.split(","))
    levels = np.clip(0.05 + slope * np.arange(budgets), 0, 1)
    path = study.stored(seed, arm)
    path.parent.mkdir(parents=True, exist_ok=True)
    correct = rng.binomial(N, levels, size=(40, budgets)).tolist()
    path.write_text(json.dumps({"digest": study.digest(seed, arm), "keys_sha256": "k", "correct": correct}))


def test_the_dial_changes_the_number_of_episodes_and_what_goes_with_it(tmp_path: Path) -> None:
    for k in DIAL:
        study = Study(f"k{k}", tmp_path)
        for arm in (WARM_START, BASELINE, OURS):
            assert load_recipe(*study.recipe(1, arm)).problems["length"] == k
        room = load_recipe(*study.recipe(1, OURS)).to_dict()["args"]["thinking_budget"]
        budgets = [int(budget) for budget in study.settings.budgets.split(",")]
        assert budgets[-1] == room
        assert budgets[0] == 0
        assert all(budget % 3 == 2 for budget in budgets[1:])  # a step takes three tokens, the first one two
        assert room == 3 * (k + k // 4) - 1
    assert len({FAMILIES[f"k{k}"].cost / k for k in DIAL}) == 1


def test_both_arms_differ_in_the_credit_and_its_probes_alone(tmp_path: Path) -> None:
    ours, theirs = (load_recipe(*Study("k8", tmp_path).recipe(1, arm)).to_dict() for arm in (OURS, BASELINE))
    changed = {k for k in ours["args"] | theirs["args"] if ours["args"].get(k) != theirs["args"].get(k)}
    assert changed <= {
        "credit",
        "alpha",
        "progress_mode",
        "probe",
        "probe_samples",
        "probe_boundaries",
        "learning_rate",
    }
    assert ours["args"]["probe"] in ("sampled", "coupled")  # a verifier is enough


def test_the_outcome_grows_fainter_with_the_number_of_episodes_and_progress_does_not() -> None:
    few, many = episodes_theory.figures([4, 16], groups=2000)
    decision = "next or repeat"
    assert many["grpo"][decision] < few["grpo"][decision] / 4
    assert many["mrt"][decision] > few["mrt"][decision] / 4
    assert many["ratio"][decision] > 3 * few["ratio"][decision] > 3
    assert "next or repeat" in episodes_theory.table([few, many])


def test_what_three_logits_learn_stays_behind_with_the_outcome_where_episodes_are_many() -> None:
    (many,) = episodes_theory.learning([16], seeds=2)
    assert many["mrt"]["regret"] < many["grpo"]["regret"] - 0.05
    assert many["episodes_at_equal_accuracy"] > 1.2
    assert "16" in episodes_theory.learning_table([many])


def test_scripted_scores_are_those_of_the_policy() -> None:
    """A score has mean 0, and every trace that has not ended decides."""
    shares = episodes_theory.Shares(repeat=0.3, overwrite=0.2, stop=0.1)
    trials, scores = episodes_theory.play(8, 3000, shares, episodes_theory.torch.Generator().manual_seed(0))
    total = scores.sum(1)
    assert (total.mean(0).abs() < 4 * total.std(0) / len(total) ** 0.5).all()
    assert trials.mask[:, 0].all()
    assert trials.stop_values is not None
    assert (trials.returns == trials.stop_values[:, -1]).all()


def test_the_picture_is_read_from_every_seed_and_drawn_the_same(tmp_path: Path) -> None:
    for k in DIAL:
        study = Study(f"k{k}", store=tmp_path)
        for seed in (1, 2):
            for arm, slope in ((WARM_START, 0.01), (BASELINE, 0.03), (OURS, 0.06)):
                stored(study, seed, arm, slope)
    numbers = episodes_picture.read_gain(tmp_path, [1, 2])
    assert [line["k"] for line in numbers["gain"]] == list(DIAL)
    assert all(line["low"] > 1.2 and len(line["seeds"]) == 2 for line in numbers["gain"])
    for name in ("a.svg", "b.svg"):
        episodes_picture.draw(numbers, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    with pytest.raises(ConfigError, match="does not hold every arm"):
        episodes_picture.read_gain(tmp_path, [1, 2, 3])


def test_nothing_stored_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cached", "--store", str(tmp_path)]) == 2
    assert "nothing is stored under" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_study_in_small(tmp_path: Path) -> None:
    """Two updates and eight problems an arm."""
    command = [sys.executable, "-m", "evals.reasoning.episodes_study", "--smoke", "--seeds", "1", "--json"]
    command += ["--runs", str(tmp_path / "runs"), "--store", str(tmp_path / "store")]
    done = subprocess.run([*command, "--family", "k4"], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(json.loads(done.stdout)["arms"]) == {WARM_START, BASELINE, OURS}
