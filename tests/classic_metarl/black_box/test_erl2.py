"""E-RL2 (Stadie et al. 2018): rewards of the episodes that explore weigh nothing, and are seen all the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from classic_metarl.black_box.rl2 import RL2Trainer
from mrt.credit.returns import gae
from mrt.errors import ConfigError
from mrt.runs.recipe import load_recipe

pytestmark = pytest.mark.training

QUICK = ["args.use_cpu=true", "args.disable_tqdm=true", "args.report_to=none", "args.per_device_train_batch_size=4"]


def build(folder: Path, *changed: str) -> RL2Trainer:
    recipe = load_recipe("black_box/erl2-grid-navi", [*QUICK, "policy.hidden_size=8", "args.normalise=false", *changed])
    return RL2Trainer.from_recipe(recipe, folder)


def weighed(trainer: RL2Trainer, trials: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and the critic's targets, in fresh units."""
    trainer.policy.rescale_values(torch.zeros(()), torch.ones(()))
    batch = trainer.weighed(trials)
    return batch.weights, batch.targets["value"]


def test_rewards_of_exploration_weigh_nothing(tmp_path: Path) -> None:
    trainer = build(tmp_path)
    trials = trainer.play(range(4))
    first = (trials.episode == 0) & trials.mask
    paid = dataclasses.replace(trials, rewards=torch.where(first, 7.0, trials.rewards))
    weights, targets = weighed(trainer, trials)
    again, again_targets = weighed(trainer, paid)
    assert torch.equal(weights, again)
    assert torch.equal(targets, again_targets)
    later = dataclasses.replace(trials, rewards=trials.rewards + 7.0 * ((trials.episode == 1) & trials.mask))
    moved, _ = weighed(trainer, later)
    assert (moved[first] > weights[first]).all(), "what is done there is paid by what comes after"
    zeroed = dataclasses.replace(trials, rewards=torch.where(first, 0.0, trials.rewards))
    assert torch.allclose(weights, gae(zeroed, trainer.args.gamma, trainer.args.lam))
    fed = trials.inputs["reward"][:, 1:15]
    assert torch.equal(fed, trials.rewards[:, :14]), "the policy sees them"
    assert trials.rewards[first].abs().sum() > 0


def test_without_free_episodes_it_is_rl2(tmp_path: Path) -> None:
    trainer = build(tmp_path, "args.free_episodes=0")
    trials = trainer.play(range(4))
    weights, _ = weighed(trainer, trials)
    assert torch.allclose(weights, gae(trials, trainer.args.gamma, trainer.args.lam))


@pytest.mark.parametrize(("free", "message"), [(2, "free_episodes=2 of 2"), (-1, "must be at least 0")])
def test_an_episode_has_to_pay(free: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tmp_path, f"args.free_episodes={free}")
