"""The trivial baselines that the table of gates states are what these players and predictors get."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from classic_metarl.problems.linear_gaussian import kalman
from classic_metarl.problems.sinusoid import Sinusoids
from classic_metarl.trainers.loss_curves import TEST_SEED
from evals.gates.table import Gate, gates
from mrt.control.agent import RandomAgent, ScriptedAgent
from mrt.control.envs import EnvTasks, make_tasks
from mrt.control.evaluation.run import HELD_OUT
from mrt.control.interaction import play
from mrt.control.oracles.bandit_policies import regret
from mrt.control.oracles.bandits import informative_value
from mrt.control.oracles.courses import FallingSide
from mrt.control.oracles.grids import grid_navi_bayes
from mrt.control.oracles.hallway import hallway_bayes
from mrt.control.rollout import rollout

pytestmark = pytest.mark.training

TASKS = 4000


class WinStay(ScriptedAgent):
    """Repeats an action that was paid and takes the next one otherwise; `every` steps make a choice."""

    def __init__(self, actions: int, every: int = 1) -> None:
        self.actions, self.every = actions, every

    def start(self, rows: int) -> dict[str, Any]:
        return {"choice": torch.zeros(rows, dtype=torch.long), "time": 0}

    def choose(self, observation: Tensor, state: dict[str, Any]) -> Tensor:
        return state["choice"]

    def learn(self, seen: Any, state: dict[str, Any]) -> dict[str, Any]:
        time, choice = state["time"] + 1, state["choice"]
        if time % self.every == 0:
            choice = torch.where(seen["reward"] > 0.5, choice, (choice + 1) % self.actions)
        return {**state, "choice": choice, "time": time}


class Fixed(ScriptedAgent):
    """What `function` says of the observation, whatever was seen before."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def choose(self, observation: Tensor, state: dict[str, Any]) -> Tensor:
        return self.function(observation)


def stated(name: str, measure: str) -> float:
    value = gates([name])[0].trivial[measure].value
    assert value is not None
    return value


def tasks_of(name: str) -> EnvTasks:
    gate: Gate = gates([name])[-1]
    return make_tasks(**{**gate.load(0, Path("run")).tasks, **gate.measured})


@pytest.mark.parametrize("name", ["T1", "T2", "T3", "T4", "T5", "T6-medium", "T6-hard", "T7"])
def test_win_stay_lose_shift_on_bandits(name: str) -> None:
    tasks = tasks_of(name)
    params, player = tasks.batch(HELD_OUT, range(TASKS)), WinStay(tasks.env.spec.actions)
    (measure,) = gates([name])[0].bars
    paid = measure == "total"
    values = play(tasks.env, player, params, 1).sum(1) if paid else regret(tasks.env, player, params, 1)
    error = float(values.std()) / TASKS**0.5
    assert float(values.mean()) == pytest.approx(stated(name, measure), abs=4 * error + 0.01)


def test_of_the_two_step_task_by_habit() -> None:
    tasks = tasks_of("T9")
    total = play(tasks.env, WinStay(2, every=2), tasks.batch(HELD_OUT, range(TASKS)), 1).sum(1)
    assert float(total.mean()) / (tasks.env.spec.trial_steps / 2) == pytest.approx(stated("T9", "per_trial"), abs=0.005)


def test_exact_ones() -> None:
    assert stated("T8", "total") == pytest.approx(informative_value(ask=False))
    grid, hall = tasks_of("T15").env, tasks_of("T48").env
    first = grid_navi_bayes(grid).first
    assert (stated("T15", "episode_2"), stated("T15", "total")) == pytest.approx((first, 4 * first))
    assert stated("T15-belief", "entropy") == pytest.approx(math.log(len(grid.goals)), abs=5e-3)  # type: ignore[attr-defined]
    half, cost, episodes = hall.half, hall.cost, hall.spec.episodes  # type: ignore[attr-defined]
    blind = (1 - 2 * half * cost) + (episodes - 1) * (1 - half * cost)
    assert stated("T48", "of_bayes") == pytest.approx(blind / hallway_bayes(hall), abs=1e-3)


def test_the_prior_of_two_hypotheses() -> None:
    """The mean of |s - f| log 3 over the pulls of a trial but the last, by the binomial distribution."""
    away = []
    for n in range(1, tasks_of("T37").env.spec.episode_steps):
        chances = [math.comb(n, k) * 0.75**k * 0.25 ** (n - k) for k in range(n + 1)]
        away.append(sum(chance * abs(2 * k - n) for k, chance in enumerate(chances)))
    assert math.log(3) * float(np.mean(away)) == pytest.approx(stated("T37", "error"), abs=1e-3)


def test_numbers_on_their_own_beside_the_exact_filter() -> None:
    """A Gaussian for every number of every row, which knows their means and deviations, and the prior of the task."""
    tasks = tasks_of("T39")
    env: Any = tasks.env
    trials = rollout(env, RandomAgent(env.spec), tasks.batch(HELD_OUT, range(TASKS)), seed=1)
    exact = kalman(env, *(trials.inputs[name] for name in ("observation", "action", "reward")))
    seen = torch.stack([trials.inputs["observation"][..., 0], trials.inputs["reward"]], -1).double()
    alone = Normal(seen.mean(0), seen.std(0).clamp(min=1e-9)).log_prob(seen)
    alone[:, 0, 1] = 0.0  # no reward before the first action
    assert float((exact.loglik - alone.sum(-1)).mean()) == pytest.approx(stated("T39", "gap"), abs=0.06)
    assert float(exact.mean[..., 1].abs().mean()) == pytest.approx(stated("T39", "goal"), abs=0.03)


def test_walking_one_way_in_the_grid() -> None:
    tasks = tasks_of("T15")
    params = tasks.batch(HELD_OUT, range(TASKS))
    actions = range(tasks.env.spec.actions)
    fixed = [Fixed(lambda seen, a=a: torch.full((len(seen),), a)) for a in actions]  # type: ignore[misc]
    best = max(float(play(tasks.env, player, params, 1)[:, 0].mean()) for player in fixed)
    assert best == pytest.approx(stated("T15", "episode_1"), abs=0.01)


def test_one_fixed_goal_on_the_semicircle() -> None:
    tasks = make_tasks("sparse-semicircle", reward="sparse", episodes=1)
    params, found = tasks.batch(HELD_OUT, range(TASKS)), []
    for degrees in (10, 30, 60, 90):
        angle = math.radians(degrees)
        goal = torch.tensor([math.cos(angle), math.sin(angle)])
        player = Fixed(lambda seen, goal=goal: ((goal - seen[:, :2]) / 0.1).clamp(-1, 1))  # type: ignore[misc]
        found.append(float(play(tasks.env, player, params, 1).sum(1).mean()))
    assert max(found) == pytest.approx(stated("maesn", "return_3"), abs=0.05)
    assert stated("T35", "episode_6") == stated("maesn", "return_3")


def test_a_rule_balances_poles_for_a_while() -> None:
    tasks = tasks_of("domain-randomisation")
    steps = play(tasks.env, FallingSide(), tasks.batch(HELD_OUT, range(TASKS))).sum(1)
    assert float(steps.mean()) == pytest.approx(stated("domain-randomisation", "total"), abs=4)


def test_one_side_of_two_objects() -> None:
    tasks = tasks_of("Harlow")
    params = tasks.batch(HELD_OUT, range(TASKS))
    for player in (Fixed(lambda seen: torch.zeros(len(seen), dtype=torch.long)), WinStay(2)):
        assert float(play(tasks.env, player, params, 1).sum(1).mean()) == pytest.approx(
            stated("Harlow", "total"), abs=0.1
        )


def test_the_centre_of_the_square() -> None:
    tasks = tasks_of("T34")
    player = Fixed(lambda seen: (-seen / 0.1).clamp(-1, 1))
    returns = play(tasks.env, player, tasks.batch(HELD_OUT, range(TASKS)), 1)
    assert float(returns[:, 2].mean()) == pytest.approx(stated("T34", "episode_3"), abs=0.2)


@pytest.mark.parametrize(
    ("name", "measure", "shots", "high"),
    [("baldwin", "mse_1", 10, 1), ("meta_lstm", "mse_5", 10, 1), ("T24", "mse_32", 10, 2), ("T22", "mse_1", 5, 1)],
)
def test_interpolation_of_the_points_of_a_sinusoid(name: str, measure: str, shots: int, high: int) -> None:
    """With five points it is worse than the best predictor that has not seen the task; with ten it is better."""
    family = Sinusoids(shots=shots, queries=100, phase_high=high * math.pi)
    x, y = family.examples([family.sample(TEST_SEED, index) for index in range(2000)])
    rows = []
    for places, values in zip(x.squeeze(-1).numpy(), y.squeeze(-1).numpy(), strict=True):
        order = places[:shots].argsort()
        guess = np.interp(places[shots:], places[:shots][order], values[:shots][order])
        rows.append(np.square(guess - values[shots:]).mean())
    error = float(np.mean(rows))
    if shots == 10:
        assert error == pytest.approx(stated(name, measure), abs=0.01)
    else:
        assert error > stated(name, measure)
