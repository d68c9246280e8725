"""Planning against plain recursion; the learners of tabular MDPs against their published or exact values.

Values of learners are measured as what they miss of each task's optimum, whose mean is known: 218.30 over ten episodes.
"""

from typing import Any

import pytest
import torch

from mrt.control.agent import RandomAgent
from mrt.control.envs.base import EnvTasks
from mrt.control.envs.decisions import TabularMDP
from mrt.control.interaction import Interaction, first_inputs, play
from mrt.control.oracles import floor_and_ceiling, mean_and_se
from mrt.control.oracles.mdps import PSRL, UCRL2, KnownMDP, MDPPolicy, PosteriorMean, random_values, value_iteration
from tests.support import references_oracles as plain

OPTIMUM = 218.30  # mean of `floor_and_ceiling` over 80,000 tasks, standard error 0.08


def small() -> tuple[TabularMDP, dict[str, torch.Tensor]]:
    env = TabularMDP(states=4, actions=3, episode_steps=5, episodes=3)
    return env, EnvTasks(env).batch(2, range(6))


def learned(env: TabularMDP, policy: MDPPolicy, params: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The memory after whole trials, the last step included."""
    trial = Interaction(env, policy, params)
    for _ in trial:
        pass
    return policy.learn({**trial.seen, "last": trial.state["last"]}, trial.state)


def test_value_iteration_equals_plain_recursion() -> None:
    _, params = small()
    best = value_iteration(params["rewards"], params["transitions"], 5)
    drawn = random_values(params["rewards"], params["transitions"], 5)
    assert best.shape == (6, 5, 4, 3)
    for row in range(6):
        model = params["rewards"][row].tolist(), params["transitions"][row].tolist(), 5
        torch.testing.assert_close(best[row], torch.tensor(plain.plan(*model, max)), atol=1e-5, rtol=0)
        mean = plain.plan(*model, lambda values: sum(values) / len(values))
        torch.testing.assert_close(drawn[row], torch.tensor(mean), atol=1e-5, rtol=0)


def test_optimism_equals_plain_extended_value_iteration() -> None:
    env, params = small()
    policy = UCRL2(env.spec, scaling=0.15)
    state = learned(env, policy, params)
    q = policy.plan(state)
    for row in range(6):
        tried = state["pulls"][row].clamp(min=1)
        steps = float(state["pulls"][row].sum())
        width = 0.15 * (4 * torch.log(torch.tensor(2 * 4 * 3 * (steps + 1) / 0.05)) / tried).sqrt()
        values = [0.0] * 4
        for t in reversed(range(5)):
            layer = torch.zeros(4, 3)
            for s in range(4):
                for a in range(3):
                    seen = bool(state["pulls"][row, s, a])
                    mean = float(state["paid"][row, s, a] / tried[s, a]) if seen else 1.0
                    chances = (state["visits"][row, s, a] / tried[s, a]).tolist() if seen else [0.25] * 4
                    best = plain.optimistic_chances(chances, values, 2 * float(width[s, a]))  # sqrt(4 states) = 2
                    layer[s, a] = mean + width[s, a] + sum(p * v for p, v in zip(best, values, strict=True))
            torch.testing.assert_close(q[row, t], layer, atol=1e-4, rtol=1e-5)
            values = layer.amax(1).tolist()


def test_learners_count_what_they_see() -> None:
    env, params = small()
    policy = PosteriorMean(env.spec)
    state = learned(env, policy, params)
    assert torch.equal(state["pulls"], state["visits"].sum(3))
    assert state["pulls"].sum((1, 2)).eq(15).all()  # resets are no transitions
    begun = torch.tensor([[1.0, 0, 0, 0]])
    choice = policy.act(first_inputs(env.spec, begun), policy.init_state(1))
    assert choice.actions.shape == (1,)
    there = torch.nn.functional.one_hot(torch.tensor([2]), 4).float()
    seen = {"observation": there, "action": torch.tensor([1]), "reward": torch.tensor([4.0]), "last": begun}
    after = policy.learn(seen, choice.state)
    assert after["visits"][0, 0, 1].tolist() == [0, 0, 1, 0]
    assert policy.mean_rewards(after)[0, 0, 1] == pytest.approx((1 + 4) / 2)
    assert policy.mean_rewards(after)[0, 1, 1] == pytest.approx(1)


def test_sampled_models_are_the_posterior() -> None:
    env = TabularMDP(states=3, actions=2, episode_steps=1)
    policy = PSRL(env.spec)
    state = policy.init_state(20_000)
    state["pulls"], state["paid"] = state["pulls"].clone(), state["paid"].clone()
    state["pulls"][:, 0, 1], state["paid"][:, 0, 1] = 3.0, 9.0
    q = policy.plan(state)[:, 0]  # one step: Q is the sampled mean reward, N((1 + 9) / 4, 1 / 4)
    assert q[:, 0, 1].mean().item() == pytest.approx(2.5, abs=0.015)
    assert q[:, 0, 1].std().item() == pytest.approx(0.5, rel=0.03)
    assert q[:, 2, 0].std().item() == pytest.approx(1.0, rel=0.03)
    two = TabularMDP(states=3, actions=2, episode_steps=2).spec
    policy = PSRL(two)
    state = policy.init_state(20_000)
    state["pulls"], state["paid"] = state["pulls"].clone(), state["paid"].clone()
    state["visits"][:, 0, 0] = torch.tensor([0.0, 3.0, 1.0])
    state["pulls"][:], state["paid"][:] = 1e8, torch.tensor([[1e8], [3e8], [2e8]])  # rewards known: 1, 3, 2 by state
    # R + E[P] (1, 3, 2) with P ~ Dirichlet(1, 4, 2)
    assert policy.plan(state)[:, 0, 0, 0].mean().item() == pytest.approx(1 + (1 + 12 + 4) / 7, abs=0.02)


def test_optimistic_sampling_is_a_maximum() -> None:
    env, params = small()
    one, five = PSRL(env.spec), PSRL(env.spec, samples=5)
    means = [policy.init_state(400)["q"].mean() for policy in (one, five)]
    assert (means[1] - means[0]).item() > 0.5
    assert play(env, five, params).shape == (6, 3)


def test_known_optimum_and_random_play_are_the_bounds() -> None:
    env = TabularMDP()
    params = EnvTasks(env).batch(4, range(1000))
    bounds = floor_and_ceiling(env, params)
    for policy, expected in ((KnownMDP(env.spec, params), bounds.ceiling), (RandomAgent(env.spec), bounds.floor)):
        mean, se = mean_and_se(play(env, policy, params).sum(1) - expected)
        assert abs(mean) <= 4 * se
    for bound, target, rounding in ((bounds.floor, 100.0, 0.0), (bounds.ceiling, 218.3, 0.05)):
        mean, se = mean_and_se(bound)
        assert abs(mean - target) <= 4 * se + rounding


def value_of(policy: MDPPolicy, count: int, seed: int) -> tuple[float, float]:
    env = TabularMDP()
    params = EnvTasks(env).batch(seed, range(count))
    missed, se = mean_and_se(floor_and_ceiling(env, params).ceiling - play(env, policy, params, seed).sum(1))
    return OPTIMUM - missed, se


LEARNERS = [
    pytest.param(lambda spec: PosteriorMean(spec), 149.7, 0.1, id="posterior-mean"),
    pytest.param(lambda spec: PSRL(spec), 133.9, 0.2, id="psrl"),
    pytest.param(lambda spec: PSRL(spec, prior_mean=0.0), 138.1, 0.8, id="psrl-of-the-paper"),
    pytest.param(lambda spec: UCRL2(spec), 146.6, 0.8, id="ucrl2"),
]


@pytest.mark.parametrize(("make", "target", "rounding"), LEARNERS)
def test_learners_over_ten_episodes(make, target: float, rounding: float) -> None:
    mean, se = value_of(make(TabularMDP().spec), 400, seed=6)
    assert abs(mean - target) <= 4 * se + rounding


@pytest.mark.slow
@pytest.mark.parametrize(("make", "target", "rounding"), LEARNERS)
def test_learners_over_ten_episodes_at_size(make, target: float, rounding: float) -> None:
    mean, se = value_of(make(TabularMDP().spec), 6000, seed=7)
    assert abs(mean - target) <= 4 * se + rounding


@pytest.mark.slow
def test_optimistic_psrl_of_the_paper() -> None:
    mean, se = value_of(PSRL(TabularMDP().spec, samples=20, prior_mean=0.0), 1500, seed=8)
    assert abs(mean - 144.1) <= 4 * se + 0.8
