"""Hochreiter et al. 2001: labels come one step late, and the state learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from classic_metarl.black_box.hochreiter import SequenceLearner, load_sequence_learner
from evals.gates.sequences import quadratic_functions
from mrt.errors import ConfigError
from mrt.runs.recipe import import_trainer, load_recipe

pytestmark = pytest.mark.training

QUIET = ["args.disable_tqdm=true", "args.report_to=none", "args.save_strategy=no"]


def trainer_of(folder: Path, *changed: str) -> Any:
    recipe = load_recipe("black_box/hochreiter", [*QUIET, *changed])
    return import_trainer(recipe.trainer).from_recipe(recipe, folder), recipe


def test_a_prediction_sees_no_label_of_its_own_or_later() -> None:
    torch.manual_seed(0)
    learner = SequenceLearner(2, 8)
    x, y = torch.rand(1, 6, 2), torch.rand(1, 6, 1)
    before = learner(x, y)
    changed = y.clone()
    changed[:, 3] += 1
    after = learner(x, changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4], after[:, 4])


def test_stop_values_and_cost(tmp_path: Path) -> None:
    trainer, _ = trainer_of(tmp_path, "args.max_steps=1", "args.updates_per_step=1", "args.logging_steps=1")
    trials = trainer.next_batch(range(64)).trials
    assert trials.stop_values.shape == (64, 13)
    assert torch.equal(trials.stop_values[:, :12], trials.rewards)
    assert torch.isnan(trials.stop_values[:, 12]).all()
    assert torch.equal(trials.episode[0], torch.arange(12))
    assert trials.cost["examples"].tolist() == [12] * 64


@pytest.mark.slow
def test_it_learns_to_learn(tmp_path: Path, learning: Any) -> None:
    """After six examples it is far better than after none; before the first it cannot be."""
    seed = learning.seed()
    trainer, recipe = trainer_of(tmp_path, "args.max_steps=40", "args.updates_per_step=50", f"seed={seed}")
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    found = quadratic_functions(tmp_path, recipe, 2000, ["mse_0", "mse_3", "mse_6"])
    assert found["mse_0"].floor == pytest.approx(0.726, abs=0.02)
    assert found["mse_0"].ceiling == pytest.approx(0.726, abs=0.02)
    learning.check("error on the first example", found["mse_0"].mean, above=0.68)
    learning.check("error after three examples", found["mse_3"].mean, below=0.6)
    learning.check("error after six examples", found["mse_6"].mean, below=0.5)
    assert load_sequence_learner(tmp_path, recipe).lstm.hidden_size == 64


def test_other_problems_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"reads problems: \{name: quadratic-functions\}, not sinusoid"):
        trainer_of(tmp_path, "problems={name: sinusoid}")
    with pytest.raises(ConfigError, match="leave out model and peft"):
        trainer_of(tmp_path, "model=runs/x")
