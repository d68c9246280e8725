"""What every system that learns from whole trials of a replay keeps to: its recipes run, resumes are exact, padding is
nothing, and what it saved acts as it did. The systems' own equations have files of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mrt.control.interaction import play
from mrt.control.replay_trainer import OffPolicyTrainer
from mrt.runs.recipe import import_trainer, load_recipe, recipe_names
from mrt.trials import Trials
from tests.support import bandit
from tests.support.compare import assert_same_run, interrupted

pytestmark = pytest.mark.training

QUICK = ["args.use_cpu=true", "args.disable_tqdm=true", "args.report_to=none", "args.logging_steps=1"]
SMALL = ["args.per_device_train_batch_size=3", "args.random_steps=60", "args.batch_size=4", "policy.hidden_size=8",
         "args.updates_per_step=2", "args.updates_per_env_step=0.2"]  # fmt: skip
NAMES = [
    name
    for name in recipe_names()
    if name.startswith("black_box/") and issubclass(import_trainer(load_recipe(name).trainer), OffPolicyTrainer)
]
ONE_EACH = {load_recipe(name).trainer: name for name in NAMES}


def build(name: str, folder: Path, *changed: str) -> Any:
    recipe = load_recipe(name, [*QUICK, *SMALL, "args.max_steps=5", "args.save_strategy=no", *changed])
    return import_trainer(recipe.trainer).from_recipe(recipe, folder)


def test_every_system_has_a_recipe() -> None:
    named = {trainer.split(":")[1] for trainer in ONE_EACH}
    assert named >= {"RDPGTrainer", "RSVGTrainer", "AMAGOTrainer"}


@pytest.mark.parametrize("name", ONE_EACH.values())
def test_a_resumed_run_equals_one_left_alone(name: str, tmp_path: Path) -> None:
    def made(folder: str) -> Any:
        options = ("args.save_strategy=steps", "args.save_steps=2", "args.auto_resume=true", "args.capacity=150")
        return build(name, tmp_path / folder, *options)

    alone = made("alone")
    alone.train()
    resumed = interrupted(lambda: made("resumed"), [3])
    assert_same_run(alone, resumed)
    left, right = (t.replay.rows(20, torch.Generator().manual_seed(0)) for t in (alone, resumed))
    assert torch.equal(left.rewards, right.rewards)
    assert torch.equal(left.inputs["reward"], right.inputs["reward"])
    assert (alone.played, alone.due) == (resumed.played, resumed.due)
    assert alone.cost.total["env_steps"] == alone.played >= 60
    assert all(not p.requires_grad for p in alone.policy.targets.parameters())


@pytest.mark.parametrize("name", ONE_EACH.values())
def test_padding_is_nothing(name: str, tmp_path: Path) -> None:
    trainer = build(name, tmp_path)
    trials = trainer.next_batch(range(3))
    rows, steps = trials.mask.shape

    def longer(value: Any) -> Any:
        drawn = torch.randint(2, (rows, 4, *value.shape[2:])) if not value.dtype.is_floating_point else None
        more = torch.randn(rows, 4, *value.shape[2:]) if drawn is None else drawn.to(value.dtype)
        return torch.cat([value, more], 1)

    padded = {name: longer(getattr(trials, name)) for name in ("actions", "rewards", "episode")}
    padded |= {"mask": torch.nn.functional.pad(trials.mask, (0, 4)), "group": trials.group, "task": trials.task}
    padded["episode"][:, steps:] = -1
    padded["inputs"] = {name: longer(value) for name, value in trials.inputs.items()}
    state, losses = trainer.policy.state_dict(), []
    kept = {name: value.clone() for name, value in state.items()}
    stochastic = getattr(trainer, "stochastic", False)
    for batch in (trials, Trials(**padded)):
        trainer.policy.load_state_dict(kept)
        if stochastic:
            trainer.policy.learned = trainer.policy.distribution.mode  # draws are of another shape
        torch.manual_seed(0)
        losses.append({name: float(value.detach()) for name, value in trainer.losses(batch).items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(ONE_EACH.values())))
def test_the_other_recipes_fit_their_trainers(name: str, tmp_path: Path) -> None:
    trainer = build(name, tmp_path)
    assert trainer.policy.shape.actions == trainer.tasks.env.spec.actions


@pytest.mark.parametrize("name", ONE_EACH.values())
def test_recipes_run_and_what_they_saved_acts_as_it_did(name: str, tmp_path: Path) -> None:
    trainer = build(name, tmp_path, "args.max_steps=2")
    before = bandit.digest_of(trainer.policy.state_dict())
    trainer.train()
    assert bandit.digest_of(trainer.policy.state_dict()) != before
    assert {"reward", "cost/env_steps"} <= trainer.state.log_history[0].keys()
    trainer.save_model(str(tmp_path / "model"))
    recipe = load_recipe(name, [*SMALL])
    kind: Any = import_trainer(recipe.trainer)
    back = kind.agent_of(tmp_path, recipe)
    params, env = trainer.tasks.batch(9, range(4)), trainer.tasks.env
    torch.manual_seed(1)
    left = play(env, trainer.policy.eval(), params, seed=2)
    torch.manual_seed(1)
    assert torch.equal(left, play(env, back, params, seed=2))
