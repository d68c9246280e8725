"""Two-step, object choice, cue recall, tabular MDPs: equal to the plain references, and what makes each that task."""

import pytest
import torch

from mrt.control.envs.base import EnvTasks, TensorEnv
from mrt.control.envs.decisions import CueRecall, ObjectChoice, TabularMDP, TwoStep
from tests.support import references_bandits as plain

DECISIONS = [TwoStep(), ObjectChoice(), CueRecall(), TabularMDP()]


def name(env: TensorEnv) -> str:
    return env.name


def test_two_step_equals_reference() -> None:
    assert plain.assert_side_by_side(TwoStep(150), lambda u: plain.TwoStep(u, 300)) == 300


@pytest.mark.parametrize("features", [1, 8])
def test_object_choice_equals_reference(features: int) -> None:
    env = ObjectChoice(300, features)
    assert plain.assert_side_by_side(env, lambda u: plain.ObjectChoice(u, 300)) == 300


def test_cue_recall_equals_reference() -> None:
    env = CueRecall(10).with_spec(episodes=25)
    assert plain.assert_side_by_side(env, lambda u: plain.CueRecall(u, 11, 25)) == 299  # 275 steps, 24 resets


def test_tabular_mdp_equals_reference() -> None:
    env = TabularMDP(episodes=30)
    assert plain.assert_side_by_side(env, lambda u: plain.TabularMDP(u, 10, 30), tasks=20) == 329


def test_tabular_mdp_of_another_size_equals_reference() -> None:
    reference = type("Small", (plain.TabularMDP,), {"states": 3, "actions": 2})
    env = TabularMDP(states=3, actions=2, episode_steps=7, episodes=20)
    assert plain.assert_side_by_side(env, lambda u: reference(u, 7, 20)) == 159


@pytest.mark.parametrize("env", DECISIONS, ids=name)
def test_a_task_depends_on_seed_and_index_alone(env: TensorEnv) -> None:
    tasks = EnvTasks(env)
    many, one = tasks.batch(7, [3, 9, 4]), tasks.batch(7, [9])
    for field, value in many.items():
        assert torch.equal(value[1], one[field][0])
    assert tasks.sample(7, 9).key == env.task_key(many, 1)


@pytest.mark.parametrize("env", DECISIONS, ids=name)
def test_a_copy_goes_on_in_the_same_way(env: TensorEnv) -> None:
    env.reset(EnvTasks(env).batch(0, range(16)), seed=5)
    for t in range(12):
        actions = torch.randint(2, (16,)) if env.spec.actions else torch.rand(16, 1)
        if t == 5:
            copy = env.clone()
        step = env.step(actions)
        if t >= 5:
            assert all(torch.equal(a, b) for a, b in zip(step, copy.step(actions), strict=True))


@pytest.mark.parametrize("env", [ObjectChoice(), TabularMDP(3, 2)], ids=name)
def test_splits_are_disjoint(env: TensorEnv) -> None:
    train, test = (EnvTasks(env, split).batch(0, range(60)) for split in ("train", "test"))
    keys = [{env.task_key(params, i) for i in range(60)} for params in (train, test)]
    assert len(keys[0]) == len(keys[1]) == 60
    assert not keys[0] & keys[1]


def test_two_step_transitions_and_rewards() -> None:
    env = TwoStep(choices=1)
    env.reset({"rich": torch.ones(20_000, dtype=torch.long)}, seed=3)
    reached = env.step(torch.zeros(20_000, dtype=torch.long))
    assert reached.reward.eq(0).all()
    common = reached.observation[:, 1] == 1
    assert common.float().mean().item() == pytest.approx(0.75, abs=0.013)  # 4 standard errors
    paid = env.step(torch.zeros(20_000, dtype=torch.long))
    assert paid.reward[common].mean().item() == pytest.approx(0.1, abs=0.01)
    assert paid.reward[~common].mean().item() == pytest.approx(0.9, abs=0.017)
    assert paid.observation[:, 0].eq(1).all()
    assert paid.trial_over.all()


def test_object_choice_rewards_the_same_object_on_either_side() -> None:
    env = ObjectChoice()
    params = EnvTasks(env).batch(0, range(500))
    observation = env.reset(params)
    sides = []
    for _ in range(6):
        left = (observation.view(500, 2, 8)[:, 0] == params["objects"][:, 0]).all(1)
        sides.append(left)
        step = env.step((~left).long())
        assert step.reward.eq(1).all()
        observation = step.observation
    assert step.trial_over.all()
    assert torch.stack(sides).float().mean().item() == pytest.approx(0.5, abs=0.04)


def test_cue_recall_pays_in_the_last_step_only() -> None:
    env = CueRecall(delay=10)
    params = EnvTasks(env).batch(0, range(20_000))
    cue, returns = env.reset(params)[:, :1], torch.zeros(20_000)
    for t in range(11):
        step = env.step(cue if t == 10 else torch.ones_like(cue))
        returns += step.reward
        assert step.observation.eq(0).all()
    assert step.trial_over.all()
    assert returns.abs().max() == 0
    env.reset(params)
    blind = sum(env.step(torch.zeros_like(cue)).reward for _ in range(11))
    assert blind.mean().item() == pytest.approx(-1 / 3, abs=4 * 0.3 / 20_000**0.5)


def test_tabular_mdp_is_the_one_of_the_paper() -> None:
    env = TabularMDP()
    params = EnvTasks(env).batch(0, range(1000))
    rewards, transitions = params["rewards"], params["transitions"]
    torch.testing.assert_close(transitions.sum(3), torch.ones(1000, 10, 5))
    assert rewards.mean().item() == pytest.approx(1, abs=4 / 50_000**0.5)
    assert rewards.std().item() == pytest.approx(1, abs=0.02)
    assert transitions.var().item() == pytest.approx(9 / (100 * 11), rel=0.02)  # of a component of Dirichlet(1, ..., 1)
    assert env.spec.trial_steps == 100
    observation = env.reset(params)
    for _ in range(10):
        assert not observation[:, 1:].any() or env.clock.gt(0).all()
        step = env.step(torch.zeros(1000, dtype=torch.long))
        observation = step.observation
    assert step.truncated.all()
    assert not step.trial_over.any()
    assert observation[:, 0].mean() < 1
    first = env.step(torch.zeros(1000, dtype=torch.long))
    assert first.fresh.all()
    assert first.observation[:, 0].eq(1).all()
    assert first.reward.eq(0).all()
