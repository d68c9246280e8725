"""Wang et al. 2016, RL2 with PPO and with TRPO, and the distilled learner: their numbers, and that they learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from classic_metarl.black_box.defaults import with_policy
from classic_metarl.black_box.distilled import TEACHERS, DistilledTrainer, make_teacher
from classic_metarl.black_box.rl2 import RL2TRPOConfig, RL2TRPOTrainer
from classic_metarl.black_box.wang import WangConfig, WangTrainer
from mrt.control.envs import make_env, make_tasks
from mrt.control.interaction import play
from mrt.control.oracles import mean_and_se
from mrt.control.oracles.bandits import bernoulli_value, dependent_known, dependent_value
from mrt.control.policy import ControlPolicy
from mrt.control.rollout import rollout
from mrt.control.trainer import VALUE
from mrt.errors import ConfigError
from mrt.runs.recipe import Recipe, import_trainer, load_recipe, recipe_names
from tests.support import bandit
from tests.support.compare import assert_same_files, interrupted
from tests.support.policies import named, randomised

pytestmark = pytest.mark.training

QUICK = ["args.use_cpu=true", "args.disable_tqdm=true", "args.report_to=none", "args.save_strategy=no"]
OURS = [name for name in recipe_names() if name.startswith("control/")]


def from_recipe(name: str, folder: Path, *changed: str) -> Any:
    recipe = load_recipe(name, [*QUICK, *changed])
    return import_trainer(recipe.trainer).from_recipe(recipe, folder)


def evaluated(trainer: Any, count: int = 4000, greedy: bool = True) -> tuple[float, float]:
    """Mean total return on unseen tasks, and its standard error."""
    params = trainer.tasks.batch(99, range(count))
    return mean_and_se(rollout(trainer.tasks.env, trainer.policy, params, seed=98, greedy=greedy).returns)


BLACK_BOX = [name for name in OURS if "black_box" in load_recipe(name).trainer]


def test_every_system_has_a_recipe() -> None:
    named = {load_recipe(name).trainer.split(":")[1] for name in BLACK_BOX}
    assert named >= {"WangTrainer", "RL2Trainer", "RL2TRPOTrainer", "DistilledTrainer"}


@pytest.mark.parametrize("name", BLACK_BOX)
def test_recipes_run(name: str, tmp_path: Path) -> None:
    trainer = from_recipe(name, tmp_path, "args.max_steps=2", "args.per_device_train_batch_size=8", "logging_steps=1")
    before = bandit.digest_of(trainer.policy.state_dict())
    trainer.train()
    assert bandit.digest_of(trainer.policy.state_dict()) != before
    assert {"reward", "regret/return"} <= trainer.state.log_history[0].keys()


def test_a_systems_own_policy_and_a_recipes() -> None:
    own = {"memory": "lstm", "hidden_size": 48, "memory_options": {"layers": 2}}
    assert with_policy(Recipe("t"), own).policy == own
    assert with_policy(Recipe("t", policy={"hidden_size": 8}), own).policy == {**own, "hidden_size": 8}
    assert with_policy(Recipe("t", policy={"memory": "snail"}), own).policy == {"memory": "snail", "hidden_size": 48}
    assert with_policy(Recipe("t", model="runs/x"), own).policy == {}


def test_wang_is_a2c(tmp_path: Path) -> None:
    """The ratio is 1 and unclipped, credits are R_t - V_t with lambda = 1, the entropy goes from 1 to 0."""
    trainer = from_recipe("control/wang-dependent", tmp_path, "args.per_device_train_batch_size=4", "tasks.pulls=6")
    assert isinstance(trainer, WangTrainer)
    assert trainer.policy.config.memory == "lstm"
    assert "time" in trainer.policy.config.see
    batch = trainer.next_batch(range(4))
    trials = batch.trials
    returns, running = torch.zeros(4, 6), torch.zeros(4)
    for t in reversed(range(6)):
        running = trials.rewards[:, t] + 0.9 * running
        returns[:, t] = running
    assert torch.allclose(batch.weights[:, :6], returns - trials.values[:, :6], atol=1e-5)
    trainer.state.max_steps = 10
    assert trainer.entropy_weight == 1.0
    trainer.state.global_step = 10
    assert trainer.entropy_weight == 0.0
    with pytest.raises(ConfigError, match=r"epochs=2, minibatches=1: after one update .* of another policy"):
        WangConfig(output_dir=str(tmp_path), max_steps=1, epochs=2)


# ---- TRPO


def trpo(folder: Path, **changed: Any) -> RL2TRPOTrainer:
    torch.manual_seed(changed.get("seed", 0))
    tasks = make_tasks("dependent-bandit", kind="easy", pulls=5)
    settings: dict[str, Any] = {"per_device_train_batch_size": 64, "max_steps": 6, "use_cpu": True}
    settings |= {"disable_tqdm": True, "report_to": "none", "logging_steps": 1, **changed}
    policy = ControlPolicy.for_spec(tasks.env.spec, hidden_size=6, separate_critic=True)
    return RL2TRPOTrainer(policy, RL2TRPOConfig(output_dir=str(folder), **settings), tasks)


def test_a_step_of_trpo_stays_in_its_region(tmp_path: Path) -> None:
    """The KL divergence is measured here anew: at most max_kl, and most of it is used; the surrogate has grown."""
    max_kl = 0.001  # small enough for the quadratic model, so that the line search hardly backtracks
    trainer = trpo(tmp_path, max_kl=max_kl)
    randomised(trainer.policy)
    batch = trainer.next_batch(range(64))
    trials = batch.trials
    old = rollout_logits(trainer, trials)
    critic = [p.clone() for name, p in trainer.policy.named_parameters() if "critic" in name]
    assert trainer.update(batch)
    new, mask = rollout_logits(trainer, trials), trials.mask
    before, after = old.log_softmax(-1)[mask], new.log_softmax(-1)[mask]
    kl = (before.exp() * (before - after)).sum(-1).mean()
    assert 0.3 * max_kl < kl <= max_kl * 1.001
    acted = trials.actions[mask][:, None]
    ratio = (after - before).gather(1, acted).exp()[:, 0]
    weights = batch.weights[mask]
    assert (ratio * weights).mean() > weights.mean() + 2e-3
    assert all(parameter.grad is None for parameter in trainer.policy.parameters())
    moved = [p for name, p in trainer.policy.named_parameters() if "critic" in name]
    assert all(not torch.equal(a, b) for a, b in zip(critic, moved, strict=True)), "the baseline is fitted too"


@torch.no_grad()
def rollout_logits(trainer: Any, trials: Any) -> Tensor:
    return trainer.policy(trials.inputs).logits


def test_the_baseline_comes_closer(tmp_path: Path) -> None:
    trainer = trpo(tmp_path, baseline_steps=50, learning_rate=1e-2)
    batch = trainer.next_batch(range(64))
    trials, mask = batch.trials, batch.trials.mask

    def error() -> float:
        with torch.no_grad():
            return float((trainer.policy(trials.inputs).values - batch.targets[VALUE])[mask].square().mean())

    before = error()
    trainer._fit_baseline(batch)
    assert error() < 0.9 * before


def test_trpo_resumes_exactly(tmp_path: Path) -> None:
    options = {"save_steps": 2, "auto_resume": True}
    whole = trpo(tmp_path / "whole", **options)
    whole.train()
    parts = interrupted(lambda: trpo(tmp_path / "parts", **options), (3, 5))
    assert bandit.digest(parts) == bandit.digest(whole)
    assert bandit.digest_of(parts._baseline.state_dict()) == bandit.digest_of(whole._baseline.state_dict())
    assert_same_files(tmp_path / "whole", tmp_path / "parts")
    logs = whole.state.log_history
    assert all(row["trpo/kl"] <= 0.01 * 1.001 for row in logs if "trpo/kl" in row)


@pytest.mark.parametrize("memory", ["lstm", "transformer", "snail", "short-window", "episodic-lstm"])
def test_trpo_moves_every_memory(memory: str, tmp_path: Path) -> None:
    """Second derivatives go through fused attention's plain twin, LSTMs, and the dictionary."""
    tasks = make_tasks("bernoulli-bandit", arms=2, pulls=3)
    torch.manual_seed(0)
    policy = ControlPolicy.for_spec(tasks.env.spec, memory=named(memory), hidden_size=8, separate_critic=True)
    args = RL2TRPOConfig(output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=32, use_cpu=True)
    trainer = RL2TRPOTrainer(policy, args, tasks)
    before = policy.actor.weight.clone()
    trainer.update(trainer.next_batch(range(32)))
    assert trainer._windows()["train"]["trpo/accepted"] == [1.0]
    assert not torch.equal(policy.actor.weight, before)


def test_mistakes_in_trpo(tmp_path: Path) -> None:
    tasks = make_tasks("bernoulli-bandit", arms=2, pulls=3)
    args = RL2TRPOConfig(output_dir=str(tmp_path), max_steps=1, use_cpu=True)
    with pytest.raises(ConfigError, match="separate_critic: true"):
        RL2TRPOTrainer(ControlPolicy.for_spec(tasks.env.spec), args, tasks)
    with pytest.raises(ConfigError, match="TRPO takes one step on a whole collection"):
        RL2TRPOConfig(output_dir=str(tmp_path), max_steps=1, epochs=2)
    with pytest.raises(ConfigError, match="max_kl"):
        RL2TRPOConfig(output_dir=str(tmp_path), max_steps=1, max_kl=0.0)


# ---- the distilled learner


@pytest.mark.parametrize("name", sorted(TEACHERS))
def test_teachers_in_the_record_play_as_by_themselves(name: str) -> None:
    """The same returns as by `play` on the same numbers; the record says that a teacher draws nothing."""
    dials = {"tabular-mdp": {"episodes": 2}, "two-step": {"choices": 10}}.get(TEACHERS[name][0], {"pulls": 8})
    tasks = make_tasks(TEACHERS[name][0], **dials)
    params = tasks.batch(0, range(6))
    trials = rollout(tasks.env, make_teacher(name, tasks.env), params, seed=1)
    alone = play(tasks.env, make_teacher(name, tasks.env), params, seed=1)
    assert torch.allclose(trials.returns.double(), alone.sum(1), atol=1e-4)
    assert bool((trials.logprobs[trials.mask] == 0).all()), "a teacher is sure of what it does"


def test_teachers_are_checked() -> None:
    env = make_env("bernoulli-bandit")
    assert type(make_teacher("", env)).__name__ == "Gittins"
    with pytest.raises(ConfigError, match=r"teacher='gitins' does not teach bernoulli-bandit.*gittins"):
        make_teacher("gitins", env)
    with pytest.raises(ConfigError, match="no teacher is known for grid-navi"):
        make_teacher("", make_env("grid-navi"))


def test_distillation_by_hand(tmp_path: Path) -> None:
    """The loss is the mean of -log pi(teacher's act), and the critic's targets are the teacher's returns to go."""
    size = "args.per_device_train_batch_size=16"
    trainer = from_recipe("control/distilled-bandit", tmp_path, size, "args.value_weight=0", "args.gamma=1.0")
    assert isinstance(trainer, DistilledTrainer)
    batch = trainer.next_batch(range(16))
    trials = batch.trials
    with torch.no_grad():
        logs = trainer.policy(trials.inputs).logits.log_softmax(-1)
    chosen = logs.gather(-1, trials.actions[..., None])[..., 0][trials.mask]
    loss = trainer.losses(batch)["policy"]
    assert loss.item() == pytest.approx(-chosen.mean().item(), rel=1e-5)
    to_go = trials.rewards.flip(1).cumsum(1).flip(1)
    assert torch.allclose(batch.targets[VALUE][trials.mask], to_go[trials.mask])


# ---- they learn


@pytest.mark.slow
def test_gittins_is_distilled(tmp_path: Path, learning: Any) -> None:
    """Five arms, ten pulls: random 5.0, Gittins within 0.01 of the Bayes-optimal 6.66; imitation comes near."""
    changed = ["args.max_steps=150", "args.per_device_train_batch_size=64", "args.learning_rate=1e-2"]
    changed += ["args.logging_steps=50", f"seed={learning.seed()}"]
    trainer = from_recipe("control/distilled-bandit", tmp_path, *changed)
    untrained, _ = evaluated(trainer)
    trainer.train()
    mean, se = evaluated(trainer)
    ceiling = bernoulli_value(5, 10)
    learning.check("untrained", untrained, below=5.2)
    learning.check("return", mean, above=6.3, below=ceiling + 4 * se)


def test_wang_learns_dependent_arms(tmp_path: Path, learning: Any) -> None:
    """Easy arms, 20 pulls: 10 at random; whoever asks once and stays gets most of the 18 - Bayes regret."""
    changed = ["tasks.pulls=20", "args.max_steps=150", "args.per_device_train_batch_size=48", "args.entropy=0.1"]
    changed += ["args.learning_rate=1e-2", f"seed={learning.seed()}"]
    trainer = from_recipe("control/wang-dependent", tmp_path, *changed)
    trainer.train()
    mean, se = evaluated(trainer)
    assert dependent_known("easy", 20) == pytest.approx(18)
    learning.check("return", mean, above=16.0, below=dependent_value("easy", 20) + 4 * se)


@pytest.mark.slow
def test_trpo_learns_dependent_arms(tmp_path: Path, learning: Any) -> None:
    options = {"max_steps": 60, "per_device_train_batch_size": 128, "learning_rate": 1e-2, "save_strategy": "no"}
    trainer = trpo(tmp_path, **options, seed=learning.seed(42))
    trainer.train()
    mean, se = evaluated(trainer)
    ceiling = dependent_value("easy", 5) + 4 * se  # random 2.5, Bayes-optimal below 4.5
    learning.check("return", mean, above=3.6, below=ceiling)
