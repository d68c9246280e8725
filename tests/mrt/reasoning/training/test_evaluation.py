"""Evaluation during training: measured as training is, no part of its cost, and it can end a run."""

import math

import pytest
import torch
from transformers import EarlyStoppingCallback

from mrt.errors import ConfigError, DataError
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.trainer import MRTTrainer
from mrt.runs.recipe import Recipe
from tests.mrt.reasoning.training.test_trainer import COMMON, TOKENIZER, mrt, odd_tokens, problems, small_model

pytestmark = pytest.mark.training

EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 8}


def logged(trainer, name):
    return [row[name] for row in trainer.state.log_history if name in row]


def with_evaluation(tmp_path, **options):
    options = {"credit": "progress", "probe": "gold", **EVALUATED, **options}
    args = MRTConfig(output_dir=str(tmp_path), **{**COMMON, "segmenter": "blocks", **options})
    args.segmenter_options = {"size": 4}
    return MRTTrainer(
        model=small_model(),
        reward_funcs=odd_tokens,
        args=args,
        train_dataset=problems(),
        eval_dataset=problems(4),
        processing_class=TOKENIZER,
    )


def test_j_regret_and_accuracy_are_logged_and_cost_nothing(tmp_path):
    trainer = with_evaluation(tmp_path)
    trainer.train()
    for name in (
        "probe/J0",
        "probe/JK",
        "regret/stop",
        "regret/normalised",
        "accuracy",
        "accuracy/at_0",
        "accuracy/at_16",
    ):
        values = logged(trainer, f"eval_{name}")
        assert len(values) == 2, name
        assert all(math.isfinite(value) for value in values)
    assert not any("cost" in name for row in trainer.state.log_history for name in row if name.startswith("eval_"))


def test_evaluation_does_not_change_what_training_costs(tmp_path):
    """The same first update with and without an evaluation behind it."""
    totals = []
    for evaluated in (False, True):
        build = with_evaluation if evaluated else lambda path, **o: mrt(path, credit="progress", probe="gold", **o)
        trainer = build(tmp_path / str(evaluated), max_steps=1)
        torch.manual_seed(0)
        trainer.train()
        totals.append(trainer.cost())
    assert totals[0] == totals[1]
    assert totals[0]["probed"] > 0


def test_a_run_ends_when_evaluation_no_longer_gets_better_and_keeps_the_best(tmp_path):
    """Accuracy of an untrained model stays 0: nothing is better than the first evaluation."""
    trainer = with_evaluation(
        tmp_path, max_steps=9, save_strategy="steps", save_steps=1, load_best_model_at_end=True,
        metric_for_best_model="regret/normalised", greater_is_better=True, early_stopping_patience=2, learning_rate=0.0,
    )  # fmt: skip
    assert any(isinstance(one, EarlyStoppingCallback) for one in trainer.callback_handler.callbacks)
    trainer.train()
    assert trainer.state.global_step < 9
    best = trainer.state.best_model_checkpoint
    assert ".staging" not in best
    assert (tmp_path / best.rpartition("/")[2]).is_dir()
    with pytest.raises(ConfigError, match=r"early_stopping_patience.*metric_for_best_model"):
        mrt(tmp_path / "other", early_stopping_patience=2)


def test_a_recipe_holds_problems_out_of_training_for_evaluation(tmp_path, tiny_dir):
    def build(**args):
        return MRTTrainer.from_recipe(
            Recipe(
                trainer="mrt.reasoning.training.trainer:MRTTrainer",
                model=str(tiny_dir),
                problems={"name": "countdown", "numbers": 2, "high": 9, "train": 24, "warmstart": 0, "test": 8},
                args={"use_cpu": True, "report_to": [], "probe": "gold", "max_completion_length": 16, **args},
            ),
            tmp_path,
        )

    trainer = build(eval_strategy="steps", eval_problems=6)
    train, held_out = set(trainer.train_dataset["key"]), set(trainer.eval_dataset["key"])
    assert (len(train), len(held_out)) == (18, 6)
    assert not train & held_out
    assert len(build().train_dataset) == 24
    assert build().eval_dataset is None
    with pytest.raises(DataError, match="eval_problems=64 leaves none of the 24"):
        build(eval_strategy="steps")


def test_the_held_out_prover_stays_what_it_was(tmp_path):
    """Whatever becomes of the policy's weights, the frozen copy says what it said before training."""
    trainer = mrt(tmp_path, credit="progress", probe="gold", max_steps=1)
    ids = torch.tensor([[5, 6, 7]])
    before = trainer.held_out.frozen(input_ids=ids).logits
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(0.5)
    assert not torch.allclose(trainer.model(input_ids=ids).logits, before, atol=0.1)
    assert torch.equal(trainer.held_out.frozen(input_ids=ids).logits, before)
