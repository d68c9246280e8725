"""What a learned policy is compared with: the players and the exact values that are known for an environment.

Random play and the known-task optimum are bounds of every environment (`mrt.control.oracles.floor_and_ceiling`); here
is what lies between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, singledispatch
from typing import Any

from torch import Tensor

from mrt.control.agent import Agent
from mrt.control.envs.bandits import (
    BernoulliBandit,
    DependentBandit,
    GaussianBandit,
    InformativeBandit,
    RestlessBandit,
)
from mrt.control.envs.base import TensorEnv
from mrt.control.envs.buses import BusGrid
from mrt.control.envs.cart_pole import CartPole
from mrt.control.envs.causal import CausalGraphs
from mrt.control.envs.corridors import Hallway, TMaze
from mrt.control.envs.decisions import CueRecall, ObjectChoice, TabularMDP, TwoStep
from mrt.control.envs.drifting import FadingLegs
from mrt.control.envs.grids import DarkRoom, GridNavi
from mrt.control.envs.navigation import PointEnv, SparseSemicircle
from mrt.control.oracles import bandit_policies as bandits
from mrt.control.oracles import bandits as values
from mrt.control.oracles import mdps
from mrt.control.oracles.arcs import ArcSampling, ArcSearch
from mrt.control.oracles.beliefs import RoomSearch, TwoHypotheses
from mrt.control.oracles.buses import uninformed_bus
from mrt.control.oracles.causal import MOST_NODES, CausalReasoner
from mrt.control.oracles.courses import FallingSide
from mrt.control.oracles.drifting import StraightLegs
from mrt.control.oracles.grids import first_episode_bound, grid_navi_bayes
from mrt.control.oracles.hallway import hallway_bayes, hallway_posterior_sampling, hallway_steps
from mrt.control.oracles.navigation import StraightPolicy

Player = Callable[[Mapping[str, Tensor], int], Agent]
"""(parameters of the tasks, seed) -> an agent that plays them."""
GITTINS_PULLS = 100  # the table grows as n^3
BAYES_PULLS = {2: 200}  # number of arms -> pulls up to which the exact value is a matter of a second
MOST_BAYES = 12  # the same for any number of arms


@singledispatch
def players(env: TensorEnv) -> dict[str, Player]:
    """The baselines that play `env`, by name; {} where there are none. Others add theirs by `players.register`."""
    return {}


@singledispatch
def exact_values(env: TensorEnv) -> dict[str, dict[str, float]]:
    """{who: {measure: expected value}} over p(M), computed, not sampled; {} where nothing is known."""
    return {}


def _seeded(kind: Callable[..., Agent], *args: Any, **options: Any) -> Player:
    return lambda params, seed: kind(*args, seed=seed, **options)


def _plain(kind: Callable[..., Agent], *args: Any, **options: Any) -> Player:
    return lambda params, seed: kind(*args, **options)


# ---- bandits and decisions


@players.register
def _(env: BernoulliBandit) -> dict[str, Player]:
    arms, pulls = env.spec.actions, env.spec.trial_steps
    found = {"Gittins": _plain(bandits.Gittins, arms, pulls)} if pulls <= GITTINS_PULLS else {}
    return found | {
        "Thompson": _seeded(bandits.Thompson, arms),
        "optimistic Thompson": _seeded(bandits.Thompson, arms, optimistic=True),
        "UCB1": _plain(bandits.UCB1, arms, c=0.1 if pulls <= 20 else 0.2),
        "epsilon-greedy": _seeded(bandits.EpsilonGreedy, arms),
        "greedy": _plain(bandits.Greedy, arms),
    }


@exact_values.register
def _(env: BernoulliBandit) -> dict[str, dict[str, float]]:
    arms, pulls = env.spec.actions, env.spec.trial_steps
    if pulls > BAYES_PULLS.get(arms, MOST_BAYES):
        return {}
    return {"Bayes-optimal": _bandit(values.bernoulli_value(arms, pulls), values.bernoulli_known(arms, pulls))}


def _bandit(value: float, known: float) -> dict[str, float]:
    return {"total": value, "regret": known - value}


@players.register
def _(env: GaussianBandit) -> dict[str, Player]:
    arms = env.spec.actions
    return {
        "Thompson": _seeded(bandits.GaussianThompson, arms, env.deviation),
        "UCB": _seeded(bandits.GaussianUCB, arms),
        "empirical mean": _seeded(bandits.GaussianUCB, arms, c=0.0),
    }


@players.register
def _(env: DependentBandit) -> dict[str, Player]:
    bayes = _plain(bandits.DependentBayes) if env.kind == "uniform" else _plain(TwoHypotheses, env)
    return {"Bayes-optimal": bayes, "Thompson": _seeded(bandits.Thompson, 2)}


@exact_values.register
def _(env: DependentBandit) -> dict[str, dict[str, float]]:
    pulls = env.spec.trial_steps
    value = values.dependent_value(env.kind, pulls)
    return {"Bayes-optimal": _bandit(value, values.dependent_known(env.kind, pulls))}


@players.register
def _(env: RestlessBandit) -> dict[str, Player]:
    bayes = _plain(bandits.RestlessBayes, tuple(env.volatility))
    return {"Bayes-optimal": bayes, "Thompson": _seeded(bandits.Thompson, 2)}


@players.register
def _(env: InformativeBandit) -> dict[str, Player]:
    return {"Bayes-optimal": _plain(bandits.InformativeBayes)}


@exact_values.register
def _(env: InformativeBandit) -> dict[str, dict[str, float]]:
    pulls = env.spec.trial_steps
    return {
        "Bayes-optimal": _bandit(values.informative_value(pulls), 5.0 * pulls),
        "never asks": _bandit(values.informative_value(pulls, ask=False), 5.0 * pulls),
    }


@players.register
def _(env: CartPole) -> dict[str, Player]:
    return {"push to the falling side": _plain(FallingSide)}


@players.register
def _(env: CausalGraphs) -> dict[str, Player]:
    if env.nodes > MOST_NODES:
        return {}
    return {"posterior and do": _plain(CausalReasoner, env), "associative": _plain(CausalReasoner, env, "associative")}


@players.register
def _(env: TwoStep) -> dict[str, Player]:
    return {"Bayes-optimal": _plain(bandits.TwoStepBayes)}


@exact_values.register
def _(env: TwoStep) -> dict[str, dict[str, float]]:
    value = values.two_step_value(env.choices, env.common, env.high)
    best = env.common * env.high + (1 - env.common) * (1 - env.high)
    return {"Bayes-optimal": _bandit(value, best * env.choices) | {"per_trial": value / env.choices}}


@exact_values.register
def _(env: ObjectChoice) -> dict[str, dict[str, float]]:
    choices = env.spec.trial_steps
    return {"Bayes-optimal": _bandit(values.object_choice_value(choices), float(choices))}


@exact_values.register
def _(env: CueRecall) -> dict[str, dict[str, float]]:
    return {"without memory": _bandit(-env.spec.episodes / 3, 0.0), "Bayes-optimal": _bandit(0.0, 0.0)}


@players.register
def _(env: TabularMDP) -> dict[str, Player]:
    return {
        "PSRL": _seeded(mdps.PSRL, env.spec),
        "optimistic PSRL": _seeded(mdps.PSRL, env.spec, samples=5),
        "UCRL2": _plain(mdps.UCRL2, env.spec),
        "posterior mean": _plain(mdps.PosteriorMean, env.spec),
        "known task": lambda params, seed: mdps.KnownMDP(env.spec, params),
    }


# ---- places


@players.register
def _(env: GridNavi) -> dict[str, Player]:
    return {"exact belief": _plain(RoomSearch, env)}


@players.register
def _(env: DarkRoom) -> dict[str, Player]:
    return {"exact belief": _plain(RoomSearch, env)}


@exact_values.register
def _(env: GridNavi) -> dict[str, dict[str, float]]:
    try:
        bayes = grid_navi_bayes(env)
    except ValueError:  # no sweep of this room is optimal in both episodes
        return {"bound of episode 1": {"episode_1": first_episode_bound(env)}}
    count = env.spec.episodes
    each = {f"episode_{k}": bayes.first if k == 1 else bayes.later for k in range(1, count + 1)}
    regret = count * bayes.later - bayes.total(count)
    last = each[f"episode_{count}"]
    return {"Bayes-optimal": {"total": bayes.total(count), "regret": regret, "last_episode": last, **each}}


@exact_values.register
def _(env: DarkRoom) -> dict[str, dict[str, float]]:
    if env.start in ("random", "task"):
        return {}
    return {"bound of episode 1": {"episode_1": first_episode_bound(env)}}


@exact_values.register
def _(env: Hallway) -> dict[str, dict[str, float]]:
    count, known = env.spec.episodes, env.spec.episodes * (1 - env.half * env.cost)
    first, later = hallway_steps(env.half, env.dead_end)
    steps = {f"steps_{k}": float(first if k == 1 else later) for k in range(1, count + 1)}
    steps["steps_to_goal"] = steps[f"steps_{count}"]
    sampling, bayes = hallway_posterior_sampling(env), hallway_bayes(env)
    return {
        "Bayes-optimal": _bandit(bayes, known) | steps,
        "posterior sampling": _bandit(sampling, known),
    }


@exact_values.register
def _(env: TMaze) -> dict[str, dict[str, float]]:
    count = env.spec.episodes
    return {"without memory": _bandit(count / 2, float(count)), "Bayes-optimal": _bandit(float(count), float(count))}


@exact_values.register
def _(env: BusGrid) -> dict[str, dict[str, float]]:
    paid = env.spec.episodes - env.spec.free_episodes
    return {"without exploring": {"total": uninformed_bus(env)}} if paid == 1 else {}


@players.register
def _(env: FadingLegs) -> dict[str, Player]:
    return {"known forces, straight": _plain(StraightLegs, env)}


@players.register
def _(env: PointEnv) -> dict[str, Player]:
    return {"known task": partial(_straight, env)}


@players.register
def _(env: SparseSemicircle) -> dict[str, Player]:
    known: dict[str, Player] = {"known task": partial(_straight, env)}
    if env.reward != "sparse":
        return known
    return known | {"exact belief": _plain(ArcSearch, env), "posterior sampling": _seeded(ArcSampling, env)}


def _straight(env: PointEnv, params: Mapping[str, Tensor], seed: int) -> Agent:
    return StraightPolicy(env)
