"""The task as a part of the observation."""

from __future__ import annotations

import pytest
import torch

from mrt.control.agent import RandomAgent
from mrt.control.envs import make_env, make_tasks
from mrt.control.envs.told import ToldTask, task_vectors
from mrt.control.rollout import rollout
from mrt.errors import ConfigError


@pytest.mark.parametrize("name", ["grid-navi", "point-robot", "bernoulli-bandit", "tabular-mdp", "two-step"])
def test_the_trial_is_the_same_and_the_observation_ends_with_the_task(name: str) -> None:
    plain, told = make_tasks(name), make_tasks(name, tell_task=True)
    params = told.batch(0, range(4))
    assert {key: value.tolist() for key, value in params.items()} == {
        key: value.tolist() for key, value in plain.batch(0, range(4)).items()
    }
    trials, without = (rollout(tasks.env, RandomAgent(tasks.env.spec, 1), params, seed=3) for tasks in (told, plain))
    assert torch.equal(trials.rewards, without.rewards)
    width, seen = plain.env.spec.observation, trials.inputs["observation"]
    assert seen.shape[-1] == told.env.spec.observation
    assert torch.equal(seen[..., :width], without.inputs["observation"])
    end = task_vectors({key: told.env._scaled(key) for key in params})  # type: ignore[attr-defined]
    assert torch.equal(seen[..., width:], end[:, None].expand(-1, seen.shape[1], -1))


def test_parameters_with_a_range_are_scaled_and_named_in_order() -> None:
    tasks = make_tasks("point-robot", tell_task=True)
    goal = torch.tensor([[0.25, -1.0]])
    assert tasks.env.reset({"goal": goal})[0, 2:].tolist() == [0.25, -1.0]
    corner = make_tasks("navigation-2d", tell_task=True)
    assert corner.env.reset({"goal": torch.tensor([[0.25, -0.5]])})[0, 2:].tolist() == [0.5, -1.0]


def test_a_gymnasium_environment_is_refused() -> None:
    pytest.importorskip("gymnasium")
    with pytest.raises(ConfigError, match="is a Gymnasium environment"):
        make_env(gymnasium="CartPole-v1", tell_task=True)
    assert isinstance(make_env("hallway", tell_task=True), ToldTask)


def test_an_online_trial_is_one_stream_without_a_reset() -> None:
    episodic, online = make_tasks("grid-navi", episodes=3), make_tasks("grid-navi", episodes=3, online=True)
    assert (online.env.spec.episodes, online.env.spec.episode_steps) == (1, 45)
    params = online.batch(0, range(4))
    stream = rollout(online.env, RandomAgent(online.env.spec, 1), params, seed=3)
    apart = rollout(episodic.env, RandomAgent(episodic.env.spec, 1), params, seed=3)
    assert int(stream.mask.sum()) == int(apart.mask.sum()) == 4 * 45
    assert int((stream.inputs["done"] > 0).sum()) == 4, "at the very end"
    assert int((apart.inputs["done"] > 0).sum()) == 4 * 3
    seen = stream.inputs["observation"]
    assert ((seen[:, 1:] - seen[:, :-1]).abs().sum(-1) <= 0.5 + 1e-6).all(), "nobody is put back to the corner"
    told = make_tasks("grid-navi", episodes=3, online=True, tell_task=True)
    assert told.env.spec.episode_steps == 45
    with pytest.raises(ConfigError, match="free episodes"):
        make_env("dream-bus", online=True)
