"""Tensor environments in the hands of Gymnasium: its wrappers, its seeds."""

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="the extra [control] is not installed")

from gymnasium.wrappers.vector import RecordEpisodeStatistics  # noqa: E402

from mrt.control.envs import EnvTasks, make_tasks  # noqa: E402
from mrt.control.envs.gymnasium import GymEnv, TensorVectorEnv  # noqa: E402
from mrt.errors import ConfigError  # noqa: E402


def test_gymnasium_may_count_episodes() -> None:
    vector = RecordEpisodeStatistics(TensorVectorEnv(make_tasks("grid-navi", episodes=2), 2))
    vector.reset(seed=0)
    for _ in range(15):
        *_, info = vector.step(np.zeros(2, dtype=int))
    assert info["episode"]["l"].tolist() == [15, 15]
    assert info["episode"]["r"].tolist() == pytest.approx([-1.5, -1.5])
    assert info["trial_episode"].tolist() == [0, 0]
    *_, info = vector.step(np.zeros(2, dtype=int))
    assert info["trial_episode"].tolist() == [1, 1]
    assert "episode" not in info


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint64, int])
def test_a_seed_is_any_integer(kind: type) -> None:
    found = [TensorVectorEnv(make_tasks("point-robot"), 2) for _ in range(2)]
    seen = [vector.reset(seed=seed)[0] for vector, seed in zip(found, (kind(3), 3), strict=True)]
    assert np.array_equal(*seen)
    assert np.array_equal(found[0].env.params["goal"], found[1].env.params["goal"])
    tasks = make_tasks("point-robot")
    assert np.array_equal(tasks.batch(kind(3), [0])["goal"], tasks.batch(3, [0])["goal"])


def test_a_seed_that_is_no_integer_is_refused() -> None:
    with pytest.raises(TypeError, match="integer"):
        TensorVectorEnv(make_tasks("point-robot"), 2).reset(seed=0.5)


def test_without_a_seed_tasks_differ_and_go_on() -> None:
    tasks = make_tasks("point-robot")
    one, other = TensorVectorEnv(tasks, 2), TensorVectorEnv(tasks, 2)
    one.reset()
    first = one.env.params["goal"].clone()
    other.reset()
    assert np.array_equal(one.env.params["goal"], first)  # the tasks are shared, what is played is not
    assert not np.array_equal(other.env.params["goal"], first)
    one.reset()
    assert not np.array_equal(one.env.params["goal"], first)
    seed = one.seed
    one.reset()
    assert one.seed == seed


def test_two_vectors_of_one_distribution_do_not_disturb_each_other() -> None:
    tasks = make_tasks("bernoulli-bandit", arms=3, pulls=20)
    alone = TensorVectorEnv(tasks, 4)
    alone.reset(seed=1)
    expected = [alone.step(np.zeros(4, dtype=int))[1].tolist() for _ in range(10)]
    one, other = TensorVectorEnv(tasks, 4), TensorVectorEnv(tasks, 4)
    one.reset(seed=1)
    other.reset(seed=2)
    found = []
    for _ in range(10):
        found.append(one.step(np.zeros(4, dtype=int))[1].tolist())
        other.step(np.zeros(4, dtype=int))
    assert found == expected


def test_gymnasium_environments_are_not_wrapped_twice() -> None:
    with pytest.raises(ConfigError, match=r"gymnasium\.make_vec"):
        TensorVectorEnv(EnvTasks(GymEnv("CartPole-v1", episode_steps=5)), 2)
