"""The study's figures from stored results, by hand; what is stored decides what still runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evals.reasoning.word_problems_study import (
    BASE,
    BASELINE,
    GSM8K,
    HELD_OUT,
    OURS,
    RULES,
    WARM_START,
    N,
    Study,
    main,
    read_stored,
    summarise,
    table,
    without_learning,
)
from mrt.reasoning.evaluation.suites import load_reasoning_suite
from mrt.runs.recipe import load_recipe
from mrt.runs.rundir import write_json

LEVELS = {BASE: 0.1, WARM_START: 0.3, BASELINE: 0.5, OURS: 0.6}
ARMS = list(LEVELS)


def stored(study: Study, seed: int, arm: str, keys: str = "k") -> None:
    """40 problems a set; the full budget is right with the arm's chance, half of it with half of the chance."""
    rng = np.random.default_rng([seed, ARMS.index(arm)])
    chances = LEVELS[arm] * np.array([0, 0.5, 1])
    one = {
        "keys_sha256": keys,
        "correct": rng.binomial(N, chances, size=(40, 3)).tolist(),
        "regret": [1 - LEVELS[arm]] * 40,
        "tokens": [30.0] * 20 + [90.0] * 20,
        "without_learning": dict.fromkeys(RULES, 0.25) | {"the largest number": 0.02},
    }
    result = {"seed": seed, "digest": study.digest(seed, arm), "sets": dict.fromkeys((*HELD_OUT, GSM8K), one)}
    trained = {"cost": {"total": 2e6}, "updates": 10, "minutes": 1.5}
    write_json(study.stored(seed, arm), result if arm == BASE else result | trained)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = Study(tmp_path / "runs", tmp_path / "store", tmp_path / "data", gsm8k=tmp_path / "gsm8k.jsonl")
    for seed in (1, 2):
        for arm in ARMS:
            stored(study, seed, arm)
    return study


def test_figures_from_what_is_stored(study: Study) -> None:
    summary = summarise(study, read_stored(study, [1, 2], ARMS), [1, 2])
    assert summary["problems"] == {"mawps": 40, "svamp": 40, "gsm8k": 40}
    ours = summary["arms"][OURS]["held_out"]
    content = [json.loads(study.stored(seed, OURS).read_text())["sets"] for seed in (1, 2)]
    right = [row[-1] / N for sets in content for name in HELD_OUT for row in sets[name]["correct"]]
    assert ours["accuracy"]["mean"] == pytest.approx(np.mean(right))
    assert ours["accuracy_minus_sft"]["low"] > 0
    assert ours["regret_minus_grpo"]["mean"] == pytest.approx(-0.1)
    assert ours["tokens"]["mean"] == pytest.approx((30 + 64) / 2)
    assert "accuracy_minus_sft" not in summary["arms"][WARM_START]["held_out"]
    text = table(summary)
    assert text.count("\n") == 1 + len(ARMS) + 3
    assert "mawps without reading: best rule 'first + second number' 0.250; the largest number 0.020" in text


def test_a_set_may_be_measured_on_some_seeds_only(study: Study) -> None:
    whole = summarise(study, read_stored(study, (1, 2), ARMS), (1, 2))
    for arm in ARMS:
        one = json.loads(study.stored(2, arm).read_text())
        del one["sets"][GSM8K]
        write_json(study.stored(2, arm), one)
    some = summarise(study, read_stored(study, (1, 2), ARMS), (1, 2))
    assert some["arms"][OURS]["held_out"] == whole["arms"][OURS]["held_out"]
    assert len(whole["arms"][OURS]["sets"][GSM8K]["accuracy_by_seed"]) == 2
    first = whole["arms"][OURS]["sets"][GSM8K]["accuracy_by_seed"][0]
    assert some["arms"][OURS]["sets"][GSM8K]["accuracy_by_seed"] == [first]
    assert "40 of gsm8k (seeds [1])" in table(some)
    assert "(seeds" not in table(whole)


def test_only_what_is_missing_runs(study: Study, tmp_path: Path) -> None:
    names = [step.name for step in study.steps([1, 2], ARMS)]
    # Results are there, but the weights that the arms start from are not: one SFT for all seeds.
    evaluations = [f"{what}-sft-{seed}" for seed in (1, 2) for what in ("mawps", "svamp", "gsm8k", "store")]
    assert names == ["sft", "merge-sft", *evaluations]
    other = Study(study.runs, tmp_path / "other", study.data)
    names = [step.name for step in other.steps([1], [OURS])]
    assert names == ["sft", "merge-sft", "mrt-1", "merge-mrt-1", "mawps-mrt-1", "svamp-mrt-1", "store-mrt-1"]
    merged = Path(study.model(1, WARM_START))
    merged.mkdir(parents=True)
    (merged / "config.json").write_text("{}")
    assert study.steps([1], ARMS) == []
    without = {"digest": study.digest(1, BASELINE), "sets": {"mawps": {}, "svamp": {}}}
    write_json(study.stored(1, BASELINE), without)
    assert [step.name for step in study.steps([1], ARMS)][-2:] == ["gsm8k-grpo-1", "store-grpo-1"]
    assert Study(study.runs, study.store, study.data).steps([1], ARMS) == [], "GSM8K is not asked for"
    study.stored(1, BASE).unlink()
    assert [step.name for step in study.steps([1], [BASE])][-1] == "store-base-1"
    write_json(study.stored(1, OURS), {"digest": "of other settings"})
    steps = {step.name: step for step in study.steps([1], [OURS])}
    assert steps["mrt-1"].needs == ()
    assert f"model={merged}" in steps["mrt-1"].command
    assert steps["store-mrt-1"].needs == ("mawps-mrt-1", "svamp-mrt-1", "gsm8k-mrt-1")


def test_both_arms_train_alike_but_for_the_credit() -> None:
    grpo, ours = (load_recipe(*Study().recipe(1, arm)).to_dict() for arm in (BASELINE, OURS))
    differ = {key for key in {**grpo["args"], **ours["args"]} if ours["args"].get(key) != grpo["args"].get(key)}
    assert differ <= {
        "credit",
        "alpha",
        "progress_mode",
        "probe",
        "probe_samples",
        "probe_moved",
        "probe_boundaries",
        "answer_tokens",
    }
    assert {key for key in ours if ours[key] != grpo[key]} == {"args", "description", "output_dir"}


def test_rules_that_read_no_word() -> None:
    found = without_learning(
        [("3 cups and 4 more", "7"), ("8 cups, 2 gone", "6"), ("9 of 3", "3"), ("No number", "7")], ["7"]
    )
    assert found["first + second number"] == found["larger / smaller of the first two"] == 0.25
    assert found["larger - smaller of the first two"] == 0.25
    assert found["the most frequent answer of the train problems"] == 0.5
    assert found["the largest number"] == 0.0


def test_mistakes_are_one_line(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cached", "--store", str(tmp_path / "nowhere")]) == 2
    assert "nothing is stored under" in capsys.readouterr().err
    assert main(["--data", str(tmp_path), "--store", str(study.store)]) == 2
    assert "holds no manifest.json" in capsys.readouterr().err
    stored(study, 2, OURS, keys="others")
    assert main(["--cached", "--seeds", "1", "2", "--store", str(study.store)]) == 2
    assert "different problems" in capsys.readouterr().err


@pytest.mark.parametrize("name", HELD_OUT)
def test_the_suites_are_read(name: str) -> None:
    suite = load_reasoning_suite(f"reasoning/word_problems_{name}")
    assert suite.n == N
    assert suite.located(None)[0]["path"].endswith(f"test_{name}.jsonl")
