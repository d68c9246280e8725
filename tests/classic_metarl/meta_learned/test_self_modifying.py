"""Self-modifying policies: the success-story criterion by hand, modifications, and what the stack is worth."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from classic_metarl.meta_learned.self_modifying import SelfModifying, Story, modified, success_story
from classic_metarl.problems.switching_bandit import SwitchingBandit
from mrt.control.envs import EnvTasks
from mrt.control.envs.navigation import PointRobot
from mrt.control.rollout import rollout
from mrt.errors import ConfigError

pytestmark = pytest.mark.training
ONE = torch.ones(1, dtype=torch.bool)


def story(time: float, reward: float, stack: list[tuple[float, float]]) -> Story:
    """A life of two instructions with the entries (t_k, R_k); the policy before entry k is (k, -k)."""
    depth = 4
    times, rewards, before = torch.zeros(1, depth), torch.zeros(1, depth), torch.zeros(1, depth, 2)
    for k, (t, r) in enumerate(stack):
        times[0, k], rewards[0, k], before[0, k] = t, r, torch.tensor([float(k), -float(k)])
    height = torch.tensor([len(stack)])
    now = torch.tensor([[9.0, 9.0]])
    return Story(now, torch.tensor([time]), torch.tensor([reward]), times, rewards, before, height)


def test_the_criterion_by_hand() -> None:
    """10 of 100 overall. An entry at (50, 2): 8 of 50 since, 0.16 > 0.1, stands. One more at (80, 8): 2 of 20 since,
    not above 0.16, is popped; the one below stays. At (50, 6): 4 of 50 since, 0.08 < 0.1, everything goes.
    """
    kept = success_story(story(100, 10, [(50, 2)]), ONE)
    assert kept.height.item() == 1
    assert kept.chances[0].tolist() == [9.0, 9.0]
    popped = success_story(story(100, 10, [(50, 2), (80, 8)]), ONE)
    assert popped.height.item() == 1
    assert popped.chances[0].tolist() == [1.0, -1.0]
    emptied = success_story(story(100, 10, [(50, 6), (80, 8)]), ONE)
    assert emptied.height.item() == 0
    assert emptied.chances[0].tolist() == [0.0, 0.0]
    assert success_story(story(100, 10, [(50, 6)]), ~ONE).height.item() == 1  # asked of nobody


def test_a_modification_by_hand() -> None:
    """(1 - c) P + c e with c = 1/2; the stack holds when, what had been earned, and the policy before."""
    config = SimpleNamespace(change=0.5, least=0.0, depth=4)
    before = story(10, 3, [])._replace(chances=torch.tensor([[0.25, 0.75]]))
    after = modified(before, ONE, torch.tensor([0]), config)
    assert after.chances[0].tolist() == [0.625, 0.375]
    assert (after.height.item(), after.times[0, 0].item(), after.rewards[0, 0].item()) == (1, 10.0, 3.0)
    assert after.before[0, 0].tolist() == [0.25, 0.75]
    floored = modified(before, ONE, torch.tensor([1]), SimpleNamespace(change=0.9, least=0.2, depth=4))
    assert floored.chances[0, 0].item() == pytest.approx(0.2 / (0.2 + 0.975))


def test_a_full_stack_forgets_its_oldest_entry() -> None:
    config = SimpleNamespace(change=0.5, least=0.0, depth=4)
    full = story(100, 50, [(10, 1), (20, 2), (30, 3), (40, 4)])._replace(chances=torch.tensor([[0.5, 0.5]]))
    after = modified(full, ONE, torch.tensor([0]), config)
    assert after.height.item() == 4
    assert after.times[0].tolist() == [20.0, 30.0, 40.0, 100.0]


def test_the_bandit_switches_and_pays_as_it_says() -> None:
    env = SwitchingBandit(arms=3, every=400, periods=2)
    params = EnvTasks(env).batch(0, range(50))
    assert bool((params["best"][:, 0] != params["best"][:, 1]).all())
    env.reset(params, seed=1)
    paid = torch.stack([env.step(params["best"][:, 0]).reward for _ in range(800)], 1)
    assert paid[:, :400].mean().item() == pytest.approx(0.9, abs=0.01)
    assert paid[:, 400:].mean().item() == pytest.approx(0.1, abs=0.01)


def test_the_stack_learns_and_the_walk_does_not() -> None:
    tasks = EnvTasks(SwitchingBandit(every=500, periods=1))
    params, late = tasks.batch(0, range(128)), {}
    for stack in (True, False):
        torch.manual_seed(0)
        agent = SelfModifying.for_spec(tasks.env.spec, change=0.3, stack=stack)
        late[stack] = rollout(tasks.env, agent, params, seed=1).rewards[:, 300:500].mean().item()
    assert late[True] > 0.31  # chance earns 0.26
    assert late[False] < 0.29


def test_mistakes_are_told() -> None:
    spec = SwitchingBandit().spec
    for options, message in (({"change": 1.0}, "change=1.0"), ({"least": 0.2}, "least=0.2"), ({"stak": 1}, "stack")):
        with pytest.raises(ConfigError, match=message):
            SelfModifying.for_spec(spec, **options)
    with pytest.raises(ConfigError, match="discrete"):
        SelfModifying.for_spec(PointRobot().spec)
