"""The exact belief on the semicircle: what is ruled out by hand, the goal never, and what searching by it earns."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mrt.control.envs import make_env, make_tasks
from mrt.control.oracles.arcs import CELLS, ArcSampling, ArcSearch
from mrt.control.oracles.beliefs import BELIEF
from mrt.control.oracles.navigation import known_task
from mrt.control.oracles.references import players
from mrt.control.rollout import rollout
from mrt.errors import ConfigError


def learned(position: list[float], reward: float) -> torch.Tensor:
    """(CELLS,) the belief after one step to a position."""
    agent = ArcSearch(make_env("sparse-semicircle"))  # type: ignore[arg-type]
    seen = {"observation": torch.tensor([position]), "reward": torch.tensor([reward]), "done": torch.zeros(1)}
    return agent.learn(seen, agent.init_state(1))[BELIEF][0]


def test_a_step_rules_out_what_it_speaks_against() -> None:
    angles = (torch.arange(CELLS) + 0.5) * math.pi / CELLS
    nothing = learned([0.0, 1.0], 0.0)
    near = (angles - math.pi / 2).abs() <= 2 * math.asin(0.1) - 0.01
    assert float(nothing[near].max()) == 0
    outside = (angles - math.pi / 2).abs() > 2 * math.asin(0.1)
    assert nothing[outside].min() == nothing[outside].max() > 0
    paid = learned([0.0, 1.0], 0.9)  # the goal is 0.1 away, to the left or to the right
    left = angles[paid > 0]
    assert float((2 * torch.sin((left - math.pi / 2).abs() / 2) - 0.1).abs().max()) < 0.01
    assert len({bool(side) for side in left > math.pi / 2}) == 2
    assert float(paid.sum()) == pytest.approx(1.0)


def test_the_goal_is_never_ruled_out_and_the_search_finds_it() -> None:
    tasks = make_tasks("sparse-semicircle", episodes=4)
    params = tasks.batch(3, range(300))
    angle = torch.atan2(params["goal"][:, 1], params["goal"][:, 0])
    cell = (angle / math.pi * CELLS).long().clamp(max=CELLS - 1)
    trials = rollout(tasks.env, ArcSearch(tasks.env), params, seed=1)  # type: ignore[arg-type]
    belief = trials.inputs[BELIEF]
    assert float(belief.gather(2, cell[:, None, None].expand(-1, belief.shape[1], 1)).min()) > 0
    found = (trials.rewards > 0) & (trials.episode < 3)
    assert bool(found.any(1).all()), "three episodes of 20 steps see the whole arc"
    last = torch.where(trials.episode == 3, trials.rewards, 0.0).sum(1)
    assert float(last.mean()) == pytest.approx(known_task(make_env("sparse-semicircle")), abs=0.4)  # type: ignore[arg-type]


def test_posterior_sampling_finds_what_lies_where_it_went() -> None:
    """Two uniform points of the half circle are within d of each other with chance 2 d - d^2, in half circles; a draw
    holds for an episode, and is the goal once that is known.
    """
    tasks = make_tasks("sparse-semicircle", episodes=4)
    env: Any = tasks.env
    agent = ArcSampling(env, seed=1)
    params = tasks.batch(3, range(1500))
    trials = rollout(env, agent, params, seed=1)
    near = 2 * math.asin(env.radius / 2) / math.pi
    by_hand = 2 * near - near**2
    first = ((trials.rewards > 0) & (trials.episode == 0)).any(1)
    assert float(first.float().mean()) == pytest.approx(by_hand, abs=4 * (by_hand / 1500) ** 0.5)
    ends = [trials.inputs["observation"][:, 21 * k + 20] for k in range(4)]  # the closing rows
    assert all(float((end.norm(dim=1) - 1).abs().max()) < 1e-3 for end in ends)
    assert float((ends[1][first] - params["goal"][first]).norm(dim=1).median()) < 0.02
    assert float((ends[1][~first] - ends[0][~first]).norm(dim=1).median()) > 0.5


def test_it_stands_among_the_baselines_where_there_is_something_to_search_for() -> None:
    assert "exact belief" in players(make_env("sparse-semicircle"))
    assert "exact belief" not in players(make_env("sparse-semicircle", reward="dense"))
    with pytest.raises(ConfigError, match="leave nothing to search for"):
        ArcSearch(make_env("sparse-semicircle", reward="dense"))  # type: ignore[arg-type]
