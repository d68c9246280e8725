"""Wrappers of tensor environments: they change what they say they change, and nothing else."""

import itertools
from collections.abc import Callable

import pytest
import torch

from mrt.control.envs import EnvTasks, TensorEnv, make_env
from mrt.control.envs.wrappers import NoisyObservation, ObservationSubset, ScaledReward, ShorterEpisodes, Wrapper
from mrt.errors import ConfigError

NAMES = ("point-robot", "grid-navi", "bernoulli-bandit", "fading-legs", "sumo", "two-step", "t-maze", "restless-bandit")


def trial(env: TensorEnv, seed: int, steps: int) -> list[tuple[torch.Tensor, ...]]:
    params, source = EnvTasks(env).batch(0, range(5)), torch.Generator().manual_seed(seed)
    found: list[tuple[torch.Tensor, ...]] = [(env.reset(params, seed),)]
    for _ in range(steps):
        if env.spec.actions:
            actions = torch.randint(env.spec.actions, (5,), generator=source)
        else:
            actions = 2 * torch.rand(5, env.spec.action_size, generator=source) - 1
        found.append(tuple(env.step(actions)))
    return found


def same(one: list[tuple[torch.Tensor, ...]], other: list[tuple[torch.Tensor, ...]]) -> bool:
    pairs = itertools.chain.from_iterable(zip(a, b, strict=True) for a, b in zip(one, other, strict=True))
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrapper_alone_changes_nothing(name: str) -> None:
    plain, wrapped = make_env(name), Wrapper(Wrapper(make_env(name)))
    assert (plain.spec, plain.name) == (wrapped.spec, wrapped.name)
    steps = min(plain.spec.trial_steps + plain.spec.episodes, 80)
    assert same(trial(plain, 3, steps), trial(wrapped, 3, steps))
    params = EnvTasks(plain).batch(0, range(3))
    assert wrapped.task_keys(params, 3, 3) == plain.task_keys(params, 3, 3)


@pytest.mark.parametrize("name", NAMES)
def test_copies_of_a_wrapper_are_independent(name: str) -> None:
    env = NoisyObservation(ScaledReward(make_env(name), 2.0), 0.1)
    trial(env, 1, 3)
    twin, branch = env.clone(), env.select(torch.tensor([4, 4]))
    actions = torch.zeros(5, dtype=torch.long) if env.spec.actions else torch.zeros(5, env.spec.action_size)
    expected = tuple(env.step(actions))
    branch.step(actions[:2])
    trial(env.with_spec(), 9, 3)
    assert all(torch.equal(a, b) for a, b in zip(twin.step(actions), expected, strict=True))
    assert torch.equal(env.observe(), expected[0])


def test_rewards_are_scaled_and_shifted() -> None:
    plain = trial(make_env("point-robot"), 3, 30)
    scaled = trial(ScaledReward(make_env("point-robot"), 0.5, -1.0), 3, 30)
    for one, other in zip(plain[1:], scaled[1:], strict=True):
        assert torch.equal(other[0], one[0])
        assert torch.equal(other[1], torch.where(one[4], 0.0, 0.5 * one[1] - 1))  # a first observation pays nothing


def test_episodes_are_cut_and_what_is_seen_of_the_time_is_not() -> None:
    env = ShorterEpisodes(make_env("fading-legs", steps=30), 4)
    steps = trial(env, 0, 10)
    assert [bool(step[3].all()) for step in steps[1:]] == [False, False, False, True, False] * 2
    assert steps[4][0][:, 1].tolist() == pytest.approx([4 / 30] * 5)
    assert env.with_spec(episodes=2).spec.trial_steps == 8
    for wrong in (0, 31):
        with pytest.raises(ConfigError, match=f"steps={wrong} must be from 1 to the 30"):
            ShorterEpisodes(make_env("fading-legs", steps=30), wrong)


def test_some_columns_are_seen() -> None:
    plain = trial(make_env("sumo"), 2, 5)
    some = ObservationSubset(make_env("sumo"), [5, 0])
    assert some.spec.observation == 2
    for one, other in zip(plain, trial(some, 2, 5), strict=True):
        assert torch.equal(other[0], one[0][:, [5, 0]])
    for wrong in ([], [8], [-1]):
        with pytest.raises(ConfigError, match="must be some of 0 to 7"):
            ObservationSubset(make_env("sumo"), wrong)


def noisy(deviation: float, twice: bool = False) -> TensorEnv:
    env: TensorEnv = NoisyObservation(make_env("navigation-2d"), deviation)
    return NoisyObservation(env, deviation) if twice else env


@pytest.mark.parametrize(("make", "expected"), [(lambda: noisy(0.3), 0.3), (lambda: noisy(0.3, True), 0.3 * 2**0.5)])
def test_noise_has_its_deviation_and_stays_out_of_the_state(make: Callable[[], TensorEnv], expected: float) -> None:
    env = make()
    params = EnvTasks(env).batch(0, range(4000))
    seen = [env.reset(params, 0)]
    for _ in range(2):
        seen.append(env.step(torch.zeros(4000, 2)).observation)
    noise = torch.stack(seen)  # nothing moves: the true place is the origin
    assert noise.std().item() == pytest.approx(expected, rel=0.03)
    assert abs(noise.mean().item()) < 0.02
    assert abs(torch.corrcoef(noise[:, :, 0])[0, 1].item()) < 0.06
    assert torch.equal(env.state["position"], torch.zeros(4000, 2))
    assert torch.equal(env.observe(), seen[-1])  # looking twice shows the same


def test_gymnasium_has_wrappers_of_its_own() -> None:
    pytest.importorskip("gymnasium", reason="the extra [control] is not installed")
    from mrt.control.envs.gymnasium import GymEnv

    with pytest.raises(ConfigError, match=r"gymnasium\.wrappers"):
        ScaledReward(GymEnv("CartPole-v1"), 2.0)
