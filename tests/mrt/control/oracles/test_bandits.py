"""Exact values against the published targets and plain references; policies against exact values, by Monte Carlo.

Monte Carlo checks allow four standard errors, and half a digit where the target is rounded.
"""

import math
from typing import Any

import pytest
import torch

from mrt.control.agent import RandomAgent, ScriptedAgent
from mrt.control.envs.bandits import (
    BernoulliBandit,
    DependentBandit,
    GaussianBandit,
    InformativeBandit,
    MovingBandits,
    RestlessBandit,
)
from mrt.control.envs.base import EnvTasks, TensorEnv
from mrt.control.envs.decisions import CueRecall, ObjectChoice, TwoStep
from mrt.control.interaction import play
from mrt.control.oracles import floor_and_ceiling, mean_and_se
from mrt.control.oracles.bandit_policies import (
    UCB1,
    DependentBayes,
    EpsilonGreedy,
    GaussianThompson,
    GaussianUCB,
    Gittins,
    Greedy,
    InformativeBayes,
    RestlessBayes,
    Thompson,
    TwoStepBayes,
    regret,
)
from mrt.control.oracles.bandits import (
    bernoulli_known,
    bernoulli_value,
    dependent_known,
    dependent_value,
    gittins_table,
    informative_value,
    object_choice_value,
    two_step_value,
)
from tests.support import references_oracles as plain


def check(values: torch.Tensor, target: float, rounding: float = 0.0) -> None:
    mean, se = mean_and_se(values)
    assert abs(mean - target) <= 4 * se + rounding, f"{mean:.4f} +- {se:.4f}, expected {target}"


def tasks(env: TensorEnv, count: int, seed: int = 11) -> dict[str, torch.Tensor]:
    return EnvTasks(env).batch(seed, range(count))


# ---- exact values


def test_bayes_optimal_values_of_the_bernoulli_bandit() -> None:
    assert bernoulli_value(5, 10) == pytest.approx(6.660, abs=5e-4)
    assert bernoulli_value(10, 10) == pytest.approx(6.714, abs=5e-4)
    assert bernoulli_value(50, 10) == bernoulli_value(10, 10)  # ten pulls cannot use an eleventh arm
    for pulls, target in ((10, 0.645), (30, 1.080), (50, 1.337), (100, 1.748)):
        assert bernoulli_known(2, pulls) - bernoulli_value(2, pulls) == pytest.approx(target, abs=5e-4)


def test_bayes_optimal_values_by_hand() -> None:
    # One pull: 1/2. Two pulls of two arms: 1/2 + (1/2)(2/3) + (1/2)(1/2), staying after a success, else the other arm.
    assert bernoulli_value(2, 1) == pytest.approx(0.5)
    assert bernoulli_value(2, 2) == pytest.approx(13 / 12)
    assert bernoulli_value(3, 2) == pytest.approx(13 / 12)
    assert bernoulli_value(1, 7) == pytest.approx(3.5)


def test_the_two_ways_of_computing_two_arms_agree() -> None:
    index = gittins_table(8)
    by_multisets = bernoulli_value(2, 8, lambda s, f, left: float(index[left, s, f]))
    assert by_multisets == pytest.approx(bernoulli_value(2, 8), abs=1e-9)
    greedy = bernoulli_value(2, 6, lambda s, f, left: (s + 1) / (s + f + 2))

    def chance(s1: int, f1: int, s2: int, f2: int) -> float:
        first, second = (s1 + 1) * (s2 + f2 + 2), (s2 + 1) * (s1 + f1 + 2)
        return 0.5 if first == second else float(first > second)

    assert greedy == pytest.approx(plain.two_armed_value(6, chance), abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "pulls", "target", "random"),
    [
        *(("easy", 100, 0.625, 40), ("medium", 100, 1.000, 25), ("hard", 100, 2.312, 10)),
        ("uniform", 100, 1.221, 25),
        ("uniform", 30, 0.926, 7.5),
    ],
)
def test_bayes_optimal_regret_of_dependent_arms(kind: str, pulls: int, target: float, random: float) -> None:
    assert dependent_known(kind, pulls) - dependent_value(kind, pulls) == pytest.approx(target, abs=5e-4)
    assert dependent_known(kind, pulls) - 0.5 * pulls == pytest.approx(random)


def test_values_of_the_informative_bandit() -> None:
    assert informative_value() == pytest.approx(20.55)
    assert informative_value(ask=False) == pytest.approx(11.00)
    assert informative_value(pulls=1) == pytest.approx(1.4)  # no time to use what is learned: (5 + 9) / 10


def test_values_of_the_two_step_task_and_of_object_choice() -> None:
    assert two_step_value(100) / 100 == pytest.approx(0.6969, abs=5e-5)
    assert two_step_value(1) == pytest.approx(0.5)
    # After one reward the belief is 9 to 1: 0.9 * 0.7 + 0.1 * 0.3 = 0.66.
    assert two_step_value(2) == pytest.approx(0.5 + 0.66)
    assert object_choice_value() == 5.5


def test_gittins_indices() -> None:
    table = gittins_table(12, grid=1024)
    assert table[2, 0, 0] == pytest.approx(5 / 9, abs=1e-4)  # 1/2 - x + (1/2)(2/3 - x) = 0
    for wins, losses, left in ((0, 0, 1), (0, 0, 12), (3, 1, 8), (0, 5, 7), (6, 0, 6)):
        assert table[left, wins, losses] == pytest.approx(plain.gittins_index(wins, losses, left), abs=1e-4)
    assert (table[2:, 0, 0] >= table[1:-1, 0, 0]).all()  # more pulls left, more worth in finding out
    policy = bernoulli_value(5, 10, lambda s, f, left: float(table[left, s, f]))
    assert policy == pytest.approx(6.660, abs=3e-3)
    assert 0 <= bernoulli_value(3, 12) - bernoulli_value(3, 12, lambda s, f, m: float(table[m, s, f])) < 0.003


# ---- policies


def greedy(s: int, f: int, done: int) -> float:
    return (s + 1) / (s + f + 2)


def ucb(s: int, f: int, done: int) -> float:
    return greedy(s, f, done) + 0.1 * math.sqrt(2 * math.log(max(done, 1)) / (s + f + 2))


@pytest.mark.parametrize(("arms", "pulls"), [(2, 20), (5, 10)])
def test_policies_against_their_exact_values(arms: int, pulls: int) -> None:
    env, params = BernoulliBandit(arms, pulls), tasks(BernoulliBandit(arms), 15_000)
    best = bernoulli_known(arms, pulls)
    for policy, index in ((Greedy(arms), greedy), (UCB1(arms, c=0.1), ucb)):
        check(regret(env, policy, params), best - plain.index_policy_value(arms, pulls, index))
    check(regret(env, Gittins(arms, pulls), params), best - bernoulli_value(arms, pulls), rounding=3e-3)
    check(regret(env, RandomAgent(env.spec), params), best - pulls / 2)


def test_randomised_policies_against_their_exact_values() -> None:
    def explore(s1: int, f1: int, s2: int, f2: int) -> float:
        return 0.15 + 0.7 * (greedy(s1, f1, 0) >= greedy(s2, f2, 0) - 1e-9)

    env, params = BernoulliBandit(2, 12), tasks(BernoulliBandit(2), 20_000)
    for policy, chance in ((EpsilonGreedy(2, epsilon=0.3), explore), (Thompson(2), plain.first_beta_is_larger)):
        check(regret(env, policy, params), 8 - plain.two_armed_value(12, chance))


def test_policies_on_five_arms_and_ten_pulls() -> None:
    # Their exact values; the table of the paper, from 1000 tasks each (standard error 0.07), has 6.6 and 6.7.
    assert plain.index_policy_value(5, 10, greedy) == pytest.approx(6.5686, abs=5e-5)
    assert plain.index_policy_value(5, 10, ucb) == pytest.approx(6.6566, abs=5e-5)
    env, params = BernoulliBandit(5, 10), tasks(BernoulliBandit(5), 15_000)
    check(regret(env, Thompson(5), params), bernoulli_known(5, 10) - 5.84, rounding=0.01)
    optimist, drawn = (regret(env, Thompson(5, flag), params) for flag in (True, False))
    assert optimist.mean() < drawn.mean() - 0.1
    check(play(env, Greedy(5), params)[:, 0], 6.5686)  # rewards, not means


@pytest.mark.parametrize("kind", ["uniform", "easy", "hard"])
def test_bayes_policy_of_dependent_arms(kind: str) -> None:
    env = DependentBandit(kind, 40)
    check(regret(env, DependentBayes(), tasks(env, 4000)), dependent_known(kind, 40) - dependent_value(kind, 40))


def test_bayes_policies_of_the_structured_tasks() -> None:
    env = InformativeBandit()
    check(play(env, InformativeBayes(), tasks(env, 5000)).sum(1), 20.55)
    task = TwoStep(choices=40)
    check(play(task, TwoStepBayes(), tasks(task, 4000)).sum(1), two_step_value(40))


def test_bayes_policy_of_restless_arms() -> None:
    env = RestlessBandit(50)
    params = tasks(env, 1000)
    filtered, fixed = regret(env, RestlessBayes(cells=25), params), regret(env, DependentBayes(), params)
    assert filtered.mean() < 0.7 * fixed.mean()  # forgetting is worth something
    known = RestlessBayes(cells=25).moves
    torch.testing.assert_close(known.sum(2), torch.ones(2, 25))
    torch.testing.assert_close(known[1].mean(0), torch.full((25,), 1 / 25), atol=2e-3, rtol=0)  # uniform stays uniform


def test_gaussian_thompson_draws_from_the_posterior() -> None:
    policy = GaussianThompson(3, deviation=0.3)
    state = policy.init_state(20_000)
    assert policy.scores(state).mean().item() == pytest.approx(0.5, abs=0.006)
    state["count"][:], state["paid"][:] = torch.tensor([0.0, 1.0, 4.0]), torch.tensor([0.0, 0.9, 1.2])
    drawn = policy.scores(state)
    grid = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    for arm, (mean, n) in enumerate([(0.9, 1), (0.3, 4)], start=1):
        weight = torch.exp(-((grid - mean) ** 2) * n / (2 * 0.09))
        check(drawn[:, arm], float((weight * grid).sum() / weight.sum()))
    assert drawn.amin() >= 0
    assert drawn.amax() <= 1


# ---- floors and ceilings


BANDITS = [BernoulliBandit(), GaussianBandit(5, 20), DependentBandit("hard", 20), RestlessBandit(40)]
OTHERS = [InformativeBandit(), MovingBandits(episodes=2), TwoStep(20), ObjectChoice(), CueRecall()]


@pytest.mark.parametrize("env", [*BANDITS, *OTHERS], ids=lambda env: env.name)
def test_random_play_is_the_floor(env: TensorEnv) -> None:
    params = tasks(env, 4000)
    bounds = floor_and_ceiling(env, params)
    assert bounds.floor.shape == bounds.ceiling.shape == (4000,)
    check(play(env, RandomAgent(env.spec), params).sum(1) - bounds.floor, 0.0)
    assert (bounds.ceiling > bounds.floor).all()


def test_ceilings() -> None:
    informative = floor_and_ceiling(InformativeBandit(), {"target": torch.arange(10)})
    assert informative.floor.mean().item() == pytest.approx(6.6136, abs=1e-4)
    assert informative.ceiling.eq(25).all()
    restless, params = RestlessBandit(40), tasks(RestlessBandit(), 4000)

    def best(env: TensorEnv, actions: torch.Tensor) -> torch.Tensor:
        return env.arm_means().amax(1)  # type: ignore[attr-defined]

    reached = play(restless, RandomAgent(restless.spec), params, score=best).sum(1)
    check(reached - floor_and_ceiling(restless, params).ceiling, 0.0)
    assert float(floor_and_ceiling(TwoStep(), {"rich": torch.zeros(1)}).ceiling) == pytest.approx(70)
    with pytest.raises(NotImplementedError, match="str"):
        floor_and_ceiling("no environment", {})  # type: ignore[arg-type]


class Walker(ScriptedAgent):
    """Walks straight to one of the two places and stays there."""

    def __init__(self, place: torch.Tensor) -> None:
        self.place = place

    def choose(self, observation: torch.Tensor, state: dict[str, object]) -> torch.Tensor:
        places = observation[:, 2:].view(-1, 2, 2)
        gap = (places[torch.arange(len(places)), self.place] - observation[:, :2]) * 400
        axis = gap.abs().argmax(1)
        along = gap.gather(1, axis[:, None])[:, 0]
        return torch.where(gap.norm(dim=1) < 50, 0, 1 + 2 * axis + (along < 0).long())


def test_moving_bandits_reach_the_published_optimum() -> None:
    env = MovingBandits(episodes=1)
    params = tasks(env, 6000)
    ceiling = float(floor_and_ceiling(env, params).ceiling[0])
    assert ceiling == pytest.approx(43.8, abs=0.05)
    right = play(env, Walker(params["right"]), params).sum(1)
    wrong = play(env, Walker(1 - params["right"]), params).sum(1)
    check(right, ceiling)
    check(wrong, 2.4, rounding=0.05)
    check((right + wrong) / 2, 23.1, rounding=0.05)  # blind to which is right


# ---- larger


@pytest.mark.slow
def test_regret_over_long_trials() -> None:
    for pulls, targets in ((30, (1.2718, 1.1076, 1.7017)), (100, (2.8305, 1.8522, None))):
        env, params = BernoulliBandit(2, pulls), tasks(BernoulliBandit(2), 40_000)
        for policy, target in zip((Greedy(2), UCB1(2), Thompson(2)), targets, strict=True):
            if target:
                check(regret(env, policy, params), target)
        best = bernoulli_known(2, pulls) - bernoulli_value(2, pulls)
        check(regret(env, Gittins(2, pulls), params), best, rounding=0.02)
    for kind, target in (("easy", 0.625), ("medium", 1.000), ("hard", 2.312), ("uniform", 1.221)):
        env = DependentBandit(kind, 100)
        check(regret(env, DependentBayes(), tasks(env, 20_000)), target)


@pytest.mark.slow
def test_totals_of_a_hundred_pulls() -> None:
    env, params = BernoulliBandit(5, 100), tasks(BernoulliBandit(5), 20_000)
    cells = (Gittins(5, 100), 78.65, 0.07), (Thompson(5), 75.1, 0.1), (Greedy(5), 75.1, 0.1), (UCB1(5), 78.42, 0.06)
    for policy, total, rounding in cells:
        check(regret(env, policy, params), bernoulli_known(5, 100) - total, rounding)


@pytest.mark.slow
def test_regret_on_gaussian_arms() -> None:
    env, params = GaussianBandit(), tasks(GaussianBandit(), 10_000)
    for policy, target in ((GaussianThompson(5), 9.81), (GaussianUCB(5, 0.5), 7.03), (GaussianUCB(5, 1.0), 10.49)):
        check(regret(env, policy, params), target, rounding=0.2)


# ---- every pull an episode


@pytest.mark.parametrize(
    ("whole", "pulls", "agents"),
    [
        (InformativeBandit(), InformativeBandit(1, episodes=5), lambda: [InformativeBayes()]),
        (
            BernoulliBandit(2, 6),
            BernoulliBandit(2, 1, episodes=6),
            lambda: [Greedy(2), UCB1(2), Gittins(2, 6), Thompson(2, seed=1)],
        ),
        (DependentBandit("easy", 6), DependentBandit("easy", 1, episodes=6), lambda: [DependentBayes()]),
        (GaussianBandit(2, 6), GaussianBandit(2, 1, episodes=6), lambda: [GaussianUCB(2)]),
    ],
    ids=["informative", "bernoulli", "dependent", "gaussian"],
)
def test_scripted_policies_do_not_mind_where_episodes_end(whole: TensorEnv, pulls: TensorEnv, agents: Any) -> None:
    """The same mean return, and floor and ceiling of a trial: closing rows bring nothing to learn from."""
    params = tasks(whole, 4000)
    for one, other in zip(agents(), agents(), strict=True):
        once, often = play(whole, one, params, seed=1).sum(1), play(pulls, other, params, seed=2)
        assert often.shape == (4000, pulls.spec.episodes)
        difference, error = mean_and_se(once - often.sum(1))
        assert abs(difference) <= 4 * error + 1e-6
    for a, b in zip(floor_and_ceiling(whole, params), floor_and_ceiling(pulls, params), strict=True):
        assert torch.allclose(a, b)
