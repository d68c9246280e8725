"""Curricula: budgets by the update, sets by their success, and both over a resume."""

import json

import pytest
import torch

from mrt.errors import ConfigError
from mrt.reasoning.problems import load_problems, to_dataset
from mrt.reasoning.training.curriculum import LEAST, CurriculumConfig, CurriculumTrainer, Success
from tests.mrt.reasoning.training.test_trainer import COMMON, TOKENIZER, small_model

pytestmark = pytest.mark.training

SETS = [
    {"name": "countdown", "high": 9, "train": 30, "warmstart": 4, "test": 4, "label": "easy"},
    {"name": "chains", "terms": 3, "train": 30, "warmstart": 4, "test": 4, "label": "hard"},
]


def test_sets_are_drawn_by_the_variance_of_their_success():
    success = Success(0.5)
    assert success.weights(["a", "b"]) == {"a": 0.5, "b": 0.5}
    success.see({"a": (9, 10), "b": (0, 0)})  # (.5 + .9) / 2 = .7; b was not asked
    assert success.means == {"a": pytest.approx(0.7)}
    assert success.weights(["a", "b"])["a"] == pytest.approx(0.21 / (0.21 + 0.25))
    for _ in range(30):
        success.see({"a": (10, 10), "b": (0, 10)})
    success.see({"c": (1, 2)})
    weights = success.weights(["a", "b", "c"])
    assert weights["a"] == weights["b"] == pytest.approx(LEAST / (0.25 + 2 * LEAST))  # neither is forgotten
    other = Success(0.5)
    other.load_state_dict(json.loads(json.dumps(success.state_dict())))
    assert other.weights(["a", "b", "c"]) == weights


def right_on_easy(completion_ids, data, **_):
    return [float(json.loads(one)["set"] == "easy") for one in data]


def build(folder, **changed):
    options = {
        **COMMON,
        "credit": "outcome",
        "probe": "none",
        "max_completion_length": 24,
        "thinking_budget": 14,
        "budget_stages": [[0, 4], [2, 14]],
        "by_success": True,
        "success_memory": 0.2,
        "max_steps": 4,
        **changed,
    }
    return CurriculumTrainer(
        model=small_model(),
        reward_funcs=right_on_easy,
        args=CurriculumConfig(output_dir=str(folder), **options),
        train_dataset=to_dataset(load_problems("mixture", sets=SETS), "train"),
        processing_class=TOKENIZER,
    )


def test_budgets_and_sets_move_and_a_resumed_run_ends_alike(tmp_path):
    whole = build(tmp_path / "whole")
    lengths, inner = [], whole._generate_and_score_completions

    def look(inputs):
        output = inner(inputs)
        lengths.append(max(len(row["trial"].thought) for row in whole.rollout_rows))
        return output

    whole._generate_and_score_completions = look
    torch.manual_seed(0)
    whole.train()
    assert max(lengths[:2]) <= 4
    assert max(lengths[2:]) > 4
    assert max(lengths) <= 14
    assert set(whole.success.means) <= {"easy", "hard"}
    assert whole.success.means  # moved
    half = build(tmp_path / "half", max_steps=4, save_strategy="steps", save_steps=2)
    torch.manual_seed(0)
    half.train()
    again = build(tmp_path / "half", max_steps=4, save_strategy="steps", save_steps=2)
    again.train(resume_from_checkpoint=str(tmp_path / "half" / "checkpoint-2"))
    assert again.success.means == half.success.means == whole.success.means


def test_what_cannot_be(tmp_path):
    for wrong in ({"budget_stages": [[1, 14]]}, {"budget_stages": [[0, 4]]}, {"success_memory": 1.0}):
        with pytest.raises(ConfigError):
            build(tmp_path, **wrong)
    trainer = build(tmp_path)
    alone = trainer.train_dataset.filter(lambda row: json.loads(row["data"])["set"] == "easy")
    with pytest.raises(ConfigError, match="sets of a mixture"):
        CurriculumTrainer(small_model(), right_on_easy, trainer.args, alone, processing_class=TOKENIZER)
