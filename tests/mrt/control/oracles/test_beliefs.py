"""Exact beliefs: against Bayes' rule written out, and what the agents that act on them earn."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mrt.control.envs import make_env, make_tasks
from mrt.control.interaction import play
from mrt.control.oracles.beliefs import BELIEF, RoomSearch, TwoHypotheses, listed_tasks, task_numbers
from mrt.control.oracles.grids import first_episode_bound, grid_navi_bayes, known_task
from mrt.control.oracles.references import exact_values, players
from mrt.control.rollout import rollout
from mrt.errors import ConfigError


def test_the_search_of_grid_navi_is_bayes_optimal() -> None:
    """Every goal once: 4.000 in the first episode and 11.071 in each later one, exactly."""
    env: Any = make_env("grid-navi")
    returns = play(env, RoomSearch(env), listed_tasks(env)).mean(0)
    bayes = grid_navi_bayes(env)
    assert returns.tolist() == pytest.approx([bayes.first, *[bayes.later] * 3])
    assert float(returns.sum()) == pytest.approx(exact_values(env)["Bayes-optimal"]["total"])


@pytest.mark.parametrize("encoding", ["xy", "one_hot"])
def test_the_belief_of_a_room_is_bayes_rule(encoding: str) -> None:
    """At every step: 1 / n for the n goals that none of the cells entered so far was, or 1 for the one that paid."""
    env: Any = make_env("grid-navi", encoding=encoding, episodes=2)
    trials = rollout(env, RoomSearch(env), listed_tasks(env))
    belief, goals = trials.inputs[BELIEF], env.goals
    for row in range(len(trials)):
        left, found = set(goals), None
        for t in range(trials.mask.shape[1] - 1):
            expected = torch.tensor(
                [float(g in left) / len(left) if found is None else float(g == found) for g in goals]
            )
            assert torch.allclose(belief[row, t], expected, atol=1e-6), (row, t)
            if trials.mask[row, t]:
                after = trials.inputs["observation"][row, t + 1]
                cell = int((env.views - after).abs().sum(1).argmin())
                found = cell if trials.rewards[row, t] > 0 else found
                left -= {cell}
    last = belief[:, -1]
    assert torch.equal(last.argmax(1), task_numbers(env, listed_tasks(env)))
    assert torch.equal(last.amax(1), torch.ones(len(goals)))


@pytest.mark.parametrize("pays", ["every", "once", "ends"])
def test_a_dark_room_is_searched_cell_by_cell(pays: str) -> None:
    """Goals that pay once are known from then on; later episodes go straight to what was found."""
    env: Any = make_env("dark-room", size=3, steps=12, episodes=3, pays=pays)
    returns = play(env, RoomSearch(env), listed_tasks(env))
    assert float(returns[:, 0].mean()) <= first_episode_bound(env) + 1e-9
    assert bool((returns[:, 0] > 0).all()), "twelve steps are enough for nine cells"
    assert float(returns[:, 2].mean()) == pytest.approx(known_task(env))


def test_two_hypotheses_are_weighed_by_the_log_odds() -> None:
    """After each pull, log-odds (s - f) log 3 in the medium bandit; the agent is the Bayes-optimal one."""
    env: Any = make_env("dependent-bandit", kind="medium", pulls=12)
    tasks = make_tasks("dependent-bandit", kind="medium", pulls=12)
    params = tasks.batch(3, range(400))
    trials = rollout(env, TwoHypotheses(env), params, seed=5)
    for_first = (trials.rewards > 0.5) == (trials.actions == 0)
    score = torch.where(for_first, 1.0, -1.0).cumsum(1)[:, :-2]
    odds = (trials.inputs[BELIEF][:, 1:-1, 0] / trials.inputs[BELIEF][:, 1:-1, 1]).log()
    assert torch.allclose(odds, score * math.log(3), atol=1e-4)
    right = trials.inputs[BELIEF][:, 11].gather(1, task_numbers(env, params)[:, None])
    assert abs(float(right.mean()) - 0.97) < 0.03, "and the belief is right about as often as it says"
    same = play(env, players(env)["Bayes-optimal"](params, 0), params, seed=5)
    assert torch.equal(same, play(env, TwoHypotheses(env), params, seed=5))


def test_the_agents_of_the_references_say_what_they_believe() -> None:
    for name, options, width in (("grid-navi", {}, 21), ("dark-room", {"size": 3}, 9), ("restless-bandit", {}, 50)):
        env = make_env(name, **options)
        params = make_tasks(name, **options).batch(0, range(3))
        agent = next(iter(players(env).values()))(params, 0)
        belief = rollout(env.with_spec(episode_steps=4, episodes=1), agent, params).inputs[BELIEF]
        assert belief.shape[-1] == width
        assert torch.allclose(belief.flatten(2).sum(2), torch.ones(3, 5))


def test_tasks_that_cannot_be_listed() -> None:
    for name, options in (("dependent-bandit", {}), ("point-robot", {}), ("bernoulli-bandit", {})):
        with pytest.raises(ConfigError, match=r"continuum|cannot be listed"):
            listed_tasks(make_env(name, **options))
    with pytest.raises(ConfigError, match="none of those that are listed"):
        task_numbers(make_env("grid-navi"), {"goal": torch.tensor([0])})
    with pytest.raises(ConfigError, match="continuum"):
        TwoHypotheses(make_env("dependent-bandit"))  # type: ignore[arg-type]
