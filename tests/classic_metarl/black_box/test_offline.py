"""The decision-pretrained transformer and algorithm distillation: what they are trained on, and that they learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from classic_metarl.black_box.algorithm_distillation import QLearner, every
from classic_metarl.black_box.dpt import Biased, DPTConfig, Wander, make_behaviour
from mrt.control.envs import make_tasks
from mrt.control.rollout import rollout
from mrt.errors import ConfigError
from mrt.runs.recipe import import_trainer, load_recipe

pytestmark = pytest.mark.training

QUIET = ["args.disable_tqdm=true", "args.report_to=none", "args.save_strategy=no", "args.use_cpu=true"]


def trainer_of(name: str, folder: Path, *changed: str) -> Any:
    recipe = load_recipe(name, [*QUIET, *changed])
    return import_trainer(recipe.trainer).from_recipe(recipe, folder)


ROOM = ("tasks={name: dark-room, size: 3, steps: 6, episodes: 3}", "args.per_device_train_batch_size=16")


def test_labels_are_of_the_task_and_no_input(tmp_path: Path) -> None:
    trainer = trainer_of("black_box/dpt-dark-room", tmp_path, *ROOM, "args.max_steps=1")
    trials = trainer.play(range(16))
    assert len(trials) == 16
    assert "best" not in trials.inputs
    assert trials.group.tolist() == list(range(16))
    env, params = trainer.tasks.env, trainer.tasks.batch(trainer.args.seed, range(16))
    goal, centre = env.xy[params["goal"]], env.xy[4]
    first = trials.privileged["best"][:, 0]
    assert torch.equal(first == 0, (goal == centre).all(1))


def test_behaviours_do_not_know_the_task() -> None:
    """On two tasks in one room the same seed makes the same walk."""
    tasks = make_tasks(name="dark-room", size=5, steps=20, episodes=2)
    params = {"goal": torch.tensor([0, 24])}
    for behaviour in (Wander, lambda env, seed: Biased(env.spec.actions, seed)):
        walks = []
        for goal in params["goal"]:
            trials = rollout(tasks.env, behaviour(tasks.env, 7), {"goal": goal[None]}, seed=1)
            walks.append(trials.actions)
        assert torch.equal(*walks)


def test_wandering_reaches_every_cell() -> None:
    tasks = make_tasks(name="dark-room", size=4, steps=30, episodes=4)
    trials = rollout(tasks.env, Wander(tasks.env, 0), tasks.batch(0, range(32)), seed=0)
    visited = trials.inputs["observation"].flatten(0, 1).amax(0)
    assert visited.tolist() == [1.0] * 16


def test_mistakes_of_the_behaviour() -> None:
    with pytest.raises(ConfigError, match="behaviour='wonder'"):
        DPTConfig(output_dir="x", max_steps=1, behaviour="wonder")
    with pytest.raises(ConfigError, match="must be in"):
        DPTConfig(output_dir="x", max_steps=1, own=1.5)
    with pytest.raises(ConfigError, match="walks rooms, bernoulli-bandit is none"):
        make_behaviour("wander", make_tasks(name="bernoulli-bandit").env, 0)


def test_a_q_learner_gets_better_within_its_history() -> None:
    tasks = make_tasks(name="dark-room", size=5, steps=10, episodes=40)
    trials = rollout(tasks.env, QLearner(tasks.env, rate=1.0, seed=0), tasks.batch(0, range(25)), seed=0)
    earned = [float((trials.rewards * (trials.episode == e)).sum(1).mean()) for e in (0, 39)]
    assert earned[0] < 3
    assert earned[1] > 6  # who knows the goal earns 8


def test_every_so_many_th_episode_is_kept_whole() -> None:
    tasks = make_tasks(name="dark-room", size=3, steps=4, episodes=6)
    trials = rollout(tasks.env, QLearner(tasks.env), tasks.batch(0, range(5)), seed=0)
    kept = every(trials, 3)
    assert kept.episode.amax(1).tolist() == [1] * 5
    assert torch.equal(kept.rewards[kept.episode == 1], trials.rewards[trials.episode == 3])
    assert torch.equal(kept.mask.sum(1), torch.full((5,), 8))
    ends = make_tasks(name="dark-room", size=3, steps=4, episodes=6, pays="ends")
    with pytest.raises(ValueError, match="different lengths"):
        every(rollout(ends.env, QLearner(ends.env), ends.batch(0, range(9)), seed=0), 2)


def earned_by_episode(trainer: Any, greedy: bool) -> list[float]:
    tasks = trainer.tasks
    trials = rollout(tasks.env, trainer.policy, tasks.batch(99, range(200)), seed=3, greedy=greedy)
    return [float((trials.rewards * (trials.episode == e)).sum(1).mean()) for e in range(tasks.env.spec.episodes)]


@pytest.mark.slow
def test_the_pretrained_policy_goes_where_it_was_paid(tmp_path: Path, learning: Any) -> None:
    changed = ("args.max_steps=150", "args.minibatches=2", "args.learning_rate=3e-3", "policy.hidden_size=32")
    trainer = trainer_of("black_box/dpt-dark-room", tmp_path, *ROOM, *changed, f"seed={learning.seed()}")
    trainer.train()
    earned = earned_by_episode(trainer, greedy=False)
    learning.check("first episode", earned[0], below=3.6)
    learning.check("last episode", earned[-1], above=2.0)
    learning.check("gain", earned[-1] - earned[0], above=0.3)


@pytest.mark.slow
def test_the_distilled_algorithm_gets_better_over_episodes(tmp_path: Path, learning: Any) -> None:
    tasks = "tasks={name: dark-room, size: 3, steps: 6, episodes: 8}"
    changed = ("args.max_steps=150", "args.minibatches=2", "args.skip=2", "args.learning_rate=3e-3")
    trainer = trainer_of(
        "black_box/ad-dark-room",
        tmp_path,
        tasks,
        *ROOM[1:],
        *changed,
        "policy.hidden_size=32",
        f"seed={learning.seed()}",
    )
    trainer.train()
    earned = earned_by_episode(trainer, greedy=False)
    learning.check("last episode", earned[-1], above=2.0)
    learning.check("gain", earned[-1] - earned[0], above=0.5)
