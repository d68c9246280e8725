"""Bandits: equal to the plain references step by step; tasks, copies, splits; what makes each of them that bandit."""

import pytest
import torch

from mrt.control.envs.bandits import (
    BernoulliBandit,
    DependentBandit,
    GaussianBandit,
    InformativeBandit,
    MovingBandits,
    RestlessBandit,
    normal,
    reflect,
)
from mrt.control.envs.base import EnvTasks, TensorEnv
from mrt.errors import ConfigError
from tests.support import references_bandits as plain

BANDITS = [
    BernoulliBandit(),
    GaussianBandit(),
    DependentBandit(),
    DependentBandit("hard"),
    RestlessBandit(),
    InformativeBandit(),
    InformativeBandit(one_hot=False),
    MovingBandits(),
]


def name(env: TensorEnv) -> str:
    return env.name


@pytest.mark.parametrize("arms", [2, 10])
def test_bernoulli_equals_reference(arms: int) -> None:
    assert plain.assert_side_by_side(BernoulliBandit(arms, 300), lambda u: plain.Bernoulli(u, 300)) == 300


def test_gaussian_equals_reference() -> None:
    assert plain.assert_side_by_side(GaussianBandit(5, 300), lambda u: plain.Gaussian(u, 300)) == 300


@pytest.mark.parametrize(("kind", "better"), [("uniform", None), ("easy", 0.9), ("medium", 0.75), ("hard", 0.6)])
def test_dependent_equals_reference(kind: str, better: float | None) -> None:
    reference = type("Dependent", (plain.Dependent,), {"better": better})
    assert plain.assert_side_by_side(DependentBandit(kind, 300), lambda u: reference(u, 300)) == 300


def test_restless_equals_reference() -> None:
    assert plain.assert_side_by_side(RestlessBandit(300), lambda u: plain.Restless(u, 300)) == 300


def test_informative_equals_reference() -> None:
    assert plain.assert_side_by_side(InformativeBandit(300), lambda u: plain.Informative(u, 300)) == 300


def test_moving_equals_reference() -> None:
    env = MovingBandits(episode_steps=50, episodes=6)
    assert plain.assert_side_by_side(env, lambda u: plain.Moving(u, 50, 6)) == 305  # 300 steps, 5 resets


@pytest.mark.parametrize("env", BANDITS, ids=name)
def test_a_task_depends_on_seed_and_index_alone(env: TensorEnv) -> None:
    tasks = EnvTasks(env)
    many, one = tasks.batch(7, [3, 9, 4]), tasks.batch(7, [9])
    for field, value in many.items():
        assert torch.equal(value[1], one[field][0])
    assert tasks.sample(7, 9).key == env.task_key(many, 1)
    other = tasks.batch(8, range(64))
    assert {env.task_key(other, i) for i in range(64)} != {env.task_key(many, 1)}


@pytest.mark.parametrize("env", BANDITS, ids=name)
def test_a_copy_goes_on_in_the_same_way(env: TensorEnv) -> None:
    env.reset(EnvTasks(env).batch(0, range(32)), seed=5)
    actions = torch.randint(env.spec.actions, (8, 32))
    for pull in actions[:3]:
        env.step(pull)
    copy = env.clone()
    noise = torch.rand(5, 32, max(env.step_draws, env.start_draws))
    for pull in actions[3:5]:
        for got, wanted in zip(copy.step(pull), env.step(pull), strict=True):
            assert torch.equal(got, wanted)
    first, branch = copy.clone(), copy.select(torch.tensor([4, 4, 30]))
    for t, pull in enumerate(actions[5:]):
        whole, part = first.step(pull, noise[t]), branch.step(pull[[4, 4, 30]], noise[t][[4, 4, 30]])
        assert all(torch.equal(a[[4, 4, 30]], b) for a, b in zip(whole, part, strict=True))


def test_splits_are_disjoint() -> None:
    env = InformativeBandit()
    keys = {}
    for split in ("train", "test"):
        params = EnvTasks(env, split).batch(0, range(200))
        keys[split] = {env.task_key(params, i) for i in range(200)}
    assert all(keys.values())
    assert not keys["train"] & keys["test"]
    assert len(keys["train"] | keys["test"]) == 10


def test_a_trial_is_one_episode_of_n_pulls() -> None:
    env = BernoulliBandit(3, pulls=4)
    assert env.spec.trial_steps == 4
    env.reset(EnvTasks(env).batch(0, [0, 1]))
    steps = [env.step(torch.zeros(2, dtype=torch.long)) for _ in range(4)]
    assert [bool(s.trial_over.all()) for s in steps] == [False, False, False, True]
    assert not any(bool(s.fresh.any() or s.terminated.any()) for s in steps)
    assert all(torch.equal(s.observation, torch.ones(2, 1)) for s in steps)


def test_dependent_arms_sum_to_one() -> None:
    for kind, values in (("easy", {0.1, 0.9}), ("medium", {0.25, 0.75}), ("hard", {0.4, 0.6})):
        means = EnvTasks(DependentBandit(kind)).batch(0, range(100))["means"]
        torch.testing.assert_close(means.sum(1), torch.ones(100))
        assert {round(value, 6) for value in means.flatten().tolist()} == values
    with pytest.raises(ConfigError, match="did you mean 'easy'"):
        DependentBandit("eazy")


def test_informative_arm_names_the_target() -> None:
    env = InformativeBandit()
    env.reset({"target": torch.arange(10)})
    told = env.step(torch.full((10,), 10))
    torch.testing.assert_close(told.reward, torch.arange(1, 11) / 10)
    assert torch.equal(told.observation.argmax(1), torch.arange(10))
    paid = env.step(torch.arange(10))
    assert torch.equal(paid.reward, torch.full((10,), 5.0))
    assert torch.equal(paid.observation.argmax(1), torch.full((10,), 10))
    assert torch.equal(env.step((torch.arange(10) + 1) % 10).reward, torch.ones(10))


def test_restless_arms_move_by_their_volatility() -> None:
    env = RestlessBandit(100)
    params = EnvTasks(env).batch(0, range(4000))
    env.reset(params)
    spread = []
    for _ in range(60):
        before = env.state["p"]
        env.step(torch.zeros(4000, dtype=torch.long))
        spread.append(env.state["p"] - before)
    low = params["volatility"] < 0.05
    assert 0.45 < low.float().mean() < 0.55
    assert torch.stack(spread)[:, low].std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.stack(spread)[:, ~low].std().item() == pytest.approx(0.1, rel=0.1)  # reflection shortens some steps
    assert env.state["p"].amin() >= 0
    assert env.state["p"].amax() <= 1


def test_reflection_and_normal_numbers() -> None:
    x = torch.tensor([-0.25, 0.25, 1.25, 2.25, -1.25])
    torch.testing.assert_close(reflect(x), torch.tensor([0.25, 0.25, 0.75, 0.25, 0.75]))
    z = normal(torch.tensor([0.0, 0.5, 1 - 2.0**-24]))
    assert torch.isfinite(z).all()
    assert z.tolist() == pytest.approx([-5.42, 0.0, 5.42], abs=0.02)
