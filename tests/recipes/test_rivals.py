"""Every recipe of a rival builds its trainer, and makes an update."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mrt.reasoning.models.tiny import save_tiny
from mrt.reasoning.training.trainer import MRTTrainer
from mrt.runs.recipe import import_trainer, load_recipe
from tests.support import ROOT

pytestmark = pytest.mark.training

NAMES = sorted(path.stem for path in (ROOT / "recipes" / "rivals").glob("*.yaml"))
OWN = ("adapt_think", "dapo", "l1", "likelihood", "mrt_star", "s_grpo", "score", "spo")  # with code of their own
RUN = [name if name in OWN else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
SIZES = ["args.use_cpu=true", "args.report_to=[]", "args.bf16=false", "args.save_strategy=no", "args.disable_tqdm=true"]
SIZES += ["args.logging_steps=1"]
FEW = ["problems.train=40", "problems.warmstart=40", "problems.test=8", "problems.high=9"]
SMALL = ["args.per_device_train_batch_size=4", "args.generation_batch_size=4", "args.num_generations=2"]
SMALL += ["args.max_completion_length=18", "args.thinking_budget=8", "args.answer_tokens=3"]
OF_TASKS = [
    "tasks.train=40",
    "tasks.warmstart=40",
    "tasks.test=8",
    "tasks.high=9",
    "args.per_device_train_batch_size=2",
]
OF_TASKS += ["args.trials_per_task=2", "args.action_tokens=8"]
WARM = ["args.per_device_train_batch_size=2", "args.tiny_hidden=16", "args.tiny_layers=1", "args.tiny_heads=2"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a few thousand parameters."""
    return Path(save_tiny(tmp_path_factory.mktemp("rivals") / "model", hidden=16, layers=1, heads=2))


def small(name: str, tiny: Path, out: Path, *more: str) -> Any:
    """The trainer of a rival's recipe, its model and sizes replaced by small ones."""
    overrides = [*SIZES, f"output_dir={out}", *([] if name == "warmstart" else [f"model={tiny}"])]
    if name == "score":
        overrides += OF_TASKS
    else:
        overrides += [*FEW, *(WARM if name == "warmstart" else SMALL)]
    if name in ("gspo", "dapo"):
        overrides += ["args.per_device_train_batch_size=2"]
    recipe = load_recipe(f"rivals/{name}", [*overrides, "args.max_steps=1", *more])
    return import_trainer(recipe.trainer).from_recipe(recipe, out)


@pytest.mark.parametrize("name", RUN)
def test_a_rival_makes_an_update(name: str, tiny: Path, tmp_path: Path) -> None:
    trainer = small(name, tiny, tmp_path)
    torch.manual_seed(0)
    trainer.train()
    assert trainer.state.global_step == 1
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert len(rows) == 1
    assert math.isfinite(rows[0]["loss"])
    if isinstance(trainer, MRTTrainer):
        assert trainer.cost()["sampled"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_all_arms_end_at_the_same_cost_on_the_same_problems(name: str) -> None:
    recipe, grpo = load_recipe(f"rivals/{name}", []), load_recipe("rivals/grpo", [])
    if name != "warmstart":
        assert recipe.args["max_cost"] == grpo.args["max_cost"]
        assert recipe.model == grpo.model
    if name != "score":
        assert recipe.problems == grpo.problems
    assert recipe.output_dir == f"runs/rivals/{name}"
