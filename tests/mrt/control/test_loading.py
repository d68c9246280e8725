"""What training left behind acts again: in our loop, in three lines, and in a plain Gymnasium loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrt import load_policy
from mrt.control.envs import make_tasks
from mrt.control.interaction import interact
from mrt.control.loading import LoadedPolicy, load_agent
from mrt.control.policy import ControlPolicy
from mrt.control.trainer import ControlTrainer
from mrt.errors import ConfigError
from mrt.runs.recipe import load_recipe
from mrt.runs.rundir import start_run
from tests.support.policies import randomised

pytestmark = pytest.mark.training

RECIPE = """
trainer: mrt.control.trainer:ControlTrainer
tasks: {tasks}
policy: {{memory: gru, hidden_size: 8}}
args: {{max_steps: 1, per_device_train_batch_size: 2, use_cpu: true, report_to: none, disable_tqdm: true}}
"""


def run_of(folder: Path, tasks: str, **changed: str) -> ControlTrainer:
    """A run of one update: run.json and model/ as `mrt train` leaves them."""
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(tasks=tasks) + "".join(f"{key}: {value}\n" for key, value in changed.items()))
    recipe = load_recipe(str(path), [f"output_dir={folder / 'run'}"])
    trainer = ControlTrainer.from_recipe(recipe, folder / "run")
    start_run(folder / "run", recipe, ["mrt", "train"])
    trainer.train()
    trainer.save_model(str(folder / "run" / "model"))
    return trainer


@pytest.mark.parametrize("tasks", ["{name: hallway, half: 2, episodes: 3}", "{name: navigation-2d, episodes: 2}"])
def test_three_lines_act_as_the_loop_does(tasks: str, tmp_path: Path) -> None:
    """Greedy, over the ends of episodes: the same actions from the same observations."""
    trainer = run_of(tmp_path, tasks)
    env, params = trainer.tasks.env, trainer.tasks.batch(5, [0])
    policy = load_policy(tmp_path / "run")
    state, reward, done = policy.reset(), 0.0, False
    for moment in interact(env, load_agent(tmp_path / "run"), params, greedy=True):
        action, state = policy.act(moment.seen["observation"][0], state, reward, done)
        reward, done = float(moment.step.reward), bool(moment.step.terminated | moment.step.truncated)
        assert np.allclose(action, moment.choice.actions[0].numpy(), atol=1e-6)


def test_several_environments_side_by_side(tmp_path: Path) -> None:
    policy = LoadedPolicy(randomised(ControlPolicy.for_spec(make_tasks("hallway", half=2).env.spec, hidden_size=8)))
    views = torch.randn(3, policy.shape.observation)
    state, alone = policy.reset(rows=3), [policy.reset() for _ in range(3)]
    for step in range(4):
        actions, state = policy.act(views.numpy(), state, np.full(3, 0.5 * step), np.array([False, step == 2, False]))
        each = [policy.act(views[i], alone[i], 0.5 * step, step == 2 and i == 1) for i in range(3)]
        assert actions.tolist() == [action for action, _ in each]
        assert all(isinstance(action, int) for action, _ in each)
        alone = [after for _, after in each]


def test_a_gymnasium_loop(tmp_path: Path) -> None:
    """Trained by `tasks: {gymnasium: ...}`, it acts in the environment itself, with the environment's own actions."""
    gymnasium = pytest.importorskip("gymnasium")
    run_of(tmp_path, "{gymnasium: Pendulum-v1, episode_steps: 5, episodes: 2}")
    policy = load_policy(tmp_path / "run")
    env: Any = gymnasium.make("Pendulum-v1")
    state = policy.reset()
    for _ in range(2):
        (observation, _), reward, done = env.reset(seed=0), 0.0, False
        for _step in range(5):
            action, state = policy.act(observation, state, reward, done)
            assert env.action_space.contains(action)
            observation, reward, *_ = env.step(action)
        _, state = policy.act(observation, state, reward, done=True)


def test_an_adapter_is_loaded_on_the_policy_it_was_trained_on(tmp_path: Path) -> None:
    policy = "{memory: transformer, hidden_size: 8, memory_options: {layers: 1, heads: 2}}"
    peft = "{r: 2, target_modules: [q_proj, v_proj], modules_to_save: [actor, critic]}"
    text = RECIPE.replace("{{memory: gru, hidden_size: 8}}", policy.replace("{", "{{").replace("}", "}}"))
    path = tmp_path / "recipe.yaml"
    path.write_text(text.format(tasks="{name: hallway, half: 2}") + f"peft: {peft}\n")
    recipe = load_recipe(str(path), [f"output_dir={tmp_path / 'run'}"])
    trainer = ControlTrainer.from_recipe(recipe, tmp_path / "run")
    start_run(tmp_path / "run", recipe, ["mrt", "train"])
    trainer.train()
    trainer.save_model(str(tmp_path / "run" / "model"))
    params = trainer.tasks.batch(0, range(5))
    with torch.no_grad():
        played = [m.choice.values for m in interact(trainer.tasks.env, trainer.policy, params, greedy=True)]
        again = [
            m.choice.values for m in interact(trainer.tasks.env, load_agent(tmp_path / "run"), params, greedy=True)
        ]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(played, again, strict=True))


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no policy"):
        load_policy(tmp_path)
    policy = LoadedPolicy(ControlPolicy.for_spec(make_tasks("hallway", half=2).env.spec, hidden_size=8))
    with pytest.raises(ConfigError, match="the observation has 7 numbers, the policy sees"):
        policy.act(np.zeros(7), policy.reset())
    recipe = load_recipe("gradient/maml", [f"output_dir={tmp_path}"])
    start_run(tmp_path, recipe, ["mrt"])
    with pytest.raises(ConfigError, match="does not act in environments"):
        load_policy(tmp_path)
