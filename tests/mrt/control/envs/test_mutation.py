"""Small changes of tasks: within their ranges, within their split, the same wherever they are drawn."""

import math

import pytest
import torch

from mrt.control.envs import ENVS, EnvTasks, make_env, make_tasks
from mrt.control.envs.draws import reflected
from mrt.errors import ConfigError

RANGES = {
    "bernoulli-bandit": {"means": (0.0, 1.0)},
    "gaussian-bandit": {"means": (0.0, 1.0)},
    "restless-bandit": {"start": (0.0, 1.0)},
    "point-robot": {"goal": (-1.0, 1.0)},
    "navigation-2d": {"goal": (-0.5, 0.5)},
    "hurdles": {"height": (0.0, 1.0), "width": (0.0, 1.0)},
    "object-choice": {"objects": (-1.0, 1.0)},
    "cart-pole": {"length": (0.25, 1.0)},
    "cue-recall": {"cue": (-1.0, 1.0)},
    "sumo": {"power": (0.3, 0.6), "growth": (0.0, 0.1), "lean": (-0.5, 0.5), "drift": (-0.2, 0.2)},
}


@pytest.mark.parametrize("name", RANGES)
def test_parameters_move_a_little_within_the_ranges_of_tasks(name: str) -> None:
    tasks, size = make_tasks(name), 0.2
    assert tasks.env.task_ranges() == RANGES[name]
    params = tasks.batch(0, range(3000))
    changed = tasks.mutate(params, 5, range(3000), size)
    for key, old in params.items():
        new = changed[key]
        assert new.shape == old.shape
        if key not in RANGES[name]:
            assert torch.equal(new, old)
            continue
        low, high = RANGES[name][key]
        for values in (old, new):  # the ranges are those that tasks are drawn from
            assert low - 1e-6 <= float(values.min()) < low + 0.02 * (high - low)
            assert high - 0.02 * (high - low) < float(values.max()) <= high + 1e-6
        away = (new - old).abs()
        assert 0.9 * size * (high - low) < float(away.max()) <= size * (high - low) + 1e-6
        assert float((away > 0).float().mean()) > 0.99
        each = away.reshape(len(away), -1)
        assert each.shape[1] == 1 or not torch.equal(each[:, 0], each[:, 1])  # every number of its own


@pytest.mark.parametrize("name", sorted({*ENVS} - {*RANGES, "sparse-semicircle"}))
def test_discrete_tasks_are_refused(name: str) -> None:
    tasks = make_tasks(name)
    with pytest.raises(ConfigError, match="no continuous parameters"):
        tasks.mutate(tasks.batch(0, range(2)), 0, range(2))


def test_goals_on_a_circle_stay_there() -> None:
    tasks = make_tasks("sparse-semicircle")
    params = tasks.batch(0, range(500))
    goal = tasks.mutate(params, 1, range(500), 0.1)["goal"]
    assert torch.allclose(goal.norm(dim=1), torch.ones(500))
    assert float(goal[:, 1].min()) >= -1e-6
    angles = [torch.atan2(g[:, 1], g[:, 0]) for g in (params["goal"], goal)]
    assert float((angles[0] - angles[1]).abs().max()) <= 0.1 * math.pi + 1e-5


def test_a_change_keeps_to_the_split_and_depends_on_seed_and_index_alone() -> None:
    tasks = make_tasks("point-robot", split="test")
    params = tasks.batch(0, range(80))
    before = {name: value.clone() for name, value in params.items()}
    changed = tasks.mutate(params, 3, range(80))
    assert all(torch.equal(params[name], before[name]) for name in params)
    assert all(tasks._inside(changed, row) for row in range(80))
    few = {name: value[[7, 9]] for name, value in params.items()}
    assert torch.equal(tasks.mutate(few, 3, [7, 9])["goal"], changed["goal"][[7, 9]])
    assert not torch.equal(tasks.mutate(few, 4, [7, 9])["goal"], changed["goal"][[7, 9]])


def test_reflection_by_hand() -> None:
    values = torch.tensor([-0.25, 0.0, 0.5, 1.25, 3.5])
    assert reflected(values, 0.0, 1.0).tolist() == [0.25, 0.0, 0.5, 0.75, 0.0]


def test_no_change_at_size_nought() -> None:
    env = make_env("point-robot")
    params = EnvTasks(env).batch(0, range(4))
    assert torch.equal(env.mutate(params, torch.rand(4, 2), 0.0)["goal"], params["goal"])


def test_noise_of_a_copy_is_its_own() -> None:
    """`with_spec` used to share the generator: a trial in the copy changed what the first one drew."""
    env = make_env("bernoulli-bandit", pulls=40)
    params = EnvTasks(env).batch(0, range(20))
    trials = []
    for disturbed in (False, True):
        env.reset(params, 4)
        if disturbed:
            env.with_spec(episodes=1).reset(params, 9)
        trials.append(torch.stack([env.step(torch.zeros(20, dtype=torch.long)).reward for _ in range(20)]))
    assert torch.equal(*trials)
