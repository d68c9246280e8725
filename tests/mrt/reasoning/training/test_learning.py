"""A short warm start and 40 MRT updates raise held-out accuracy: two numbers, a small model, about a minute."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from mrt.metrics.regret import paired_bootstrap
from mrt.reasoning.evaluation.run import run_eval
from mrt.reasoning.evaluation.stored import Samples
from mrt.reasoning.models.tiny import save_tiny
from mrt.reasoning.training.trainer import MRTTrainer
from mrt.reasoning.training.warmstart import WarmStartTrainer
from mrt.runs.recipe import load_recipe

pytestmark = pytest.mark.training

DIALS = {"numbers": 2, "high": 30, "train": 600, "warmstart": 250, "test": 100}
WARM_START = {
    "max_steps": 500,
    "per_device_train_batch_size": 64,
    "learning_rate": 8e-3,
    "adam_beta2": 0.95,
    "warmup_steps": 50,
    "attempts_high": 4,
    "give_up": 0.5,
    "patient": 0,
}
MRT = {
    "max_steps": 40,
    "per_device_train_batch_size": 96,
    "generation_batch_size": 96,
    "learning_rate": 2e-3,
    "max_completion_length": 52,
    "thinking_budget": 40,
    "alpha": 2.0,
    "progress_center": "none",
    "probe_tolerance": 0.02,
    "probe_moved": 0.1,
}


def train(recipe: str, trainer: type, model: Path, out: Path, seed: int, changed: dict) -> Path:
    overrides = [f"model={model}", f"output_dir={out}", f"seed={seed}", "args.save_strategy=no"]
    overrides += [f"problems.{name}={value}" for name, value in DIALS.items()]
    overrides += [f"args.{name}={value}" for name, value in changed.items()]
    built = trainer.from_recipe(load_recipe(recipe, overrides), out)  # type: ignore[attr-defined]
    built.train()
    built.save_model(str(out / "model"))
    return out / "model"


@pytest.mark.timeout(600)
def test_a_short_warm_start_and_40_updates_of_mrt_raise_held_out_accuracy(tmp_path, caplog, learning):
    """100 problems that neither stage has seen, 16 samples each. Floor: a random expression; ceiling: 1."""
    caplog.set_level(logging.WARNING)
    tiny = save_tiny(tmp_path / "tiny", hidden=96, layers=2, heads=2)
    before = train("countdown/warmstart", WarmStartTrainer, tiny, tmp_path / "warmstart", learning.seed(), WARM_START)
    after = train("countdown/mrt", MRTTrainer, before, tmp_path / "mrt", learning.seed(), MRT)
    accuracy = {}
    for name, model in (("before", before), ("after", after)):
        folder = tmp_path / f"eval-{name}"
        run_eval(str(model), "countdown", folder, DIALS, n=16, budgets=[0, 10, 20, 30, 40])
        samples = Samples(folder)
        accuracy[name] = samples.by_problem(samples.at_budget)[:, -1]
    gain = paired_bootstrap(accuracy["after"], accuracy["before"])
    rewards = [json.loads(line).get("reward") for line in (tmp_path / "mrt" / "metrics.jsonl").read_text().splitlines()]
    assert len([reward for reward in rewards if reward is not None]) == 40
    floor = 1 / 3  # of the expressions over two numbers and three operations
    print(f"random {floor:.2f}, before {np.mean(accuracy['before']):.3f}, gain {gain}, ceiling 1")
    learning.check("lower end of the gain", gain.low, above=0)
