"""Causal graphs: samples beside a plain loop, exact posteriors and expectations by hand, who reasons better."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mrt.control.envs import make_env, make_tasks
from mrt.control.envs.bandits import normal
from mrt.control.envs.causal import CausalGraphs, weights_of
from mrt.control.interaction import play
from mrt.control.oracles import task_bounds
from mrt.control.oracles.causal import CausalReasoner, GraphTables
from mrt.errors import ConfigError


def test_a_trial_beside_a_plain_loop() -> None:
    """Three nodes, edges 1 -> 0 first: x1 = w10 x0, x2 = w20 x0 + w21 x1."""
    env = make_env("causal")
    edges = torch.tensor([[1, -1, 0], [0, 1, 1]])
    rng = np.random.default_rng(0)
    starts = torch.tensor(rng.random((2, 3)), dtype=torch.float32)
    env.reset({"edges": edges}, noise=starts[:, :1])
    target = (starts[:, 0] * 3).long().tolist()
    for t in range(3):
        u = torch.tensor(rng.random((2, 3)), dtype=torch.float32)
        actions = torch.tensor([t % 3, (t + 1) % 3])
        step = env.step(actions, u)
        for row in range(2):
            noise = (math.sqrt(0.1) * normal(u[row])).tolist()
            node, at = (target[row], -5.0) if t == 2 else (int(actions[row]), 5.0)
            w10, w20, w21 = edges[row].tolist()
            x = [0.0, 0.0, 0.0]
            x[0] = at if node == 0 else noise[0]
            x[1] = at if node == 1 else w10 * x[0] + noise[1]
            x[2] = at if node == 2 else w20 * x[0] + w21 * x[1] + noise[2]
            assert step.observation[row, :3].tolist() == pytest.approx(x, abs=1e-5)
            assert step.observation[row, 3:6].argmax() == node
            assert float(step.reward[row]) == pytest.approx(x[int(actions[row])] if t == 2 else 0.0, abs=1e-5)
            if t == 1:
                assert step.observation[row, 6:].tolist() == [*(float(i == target[row]) for i in range(3)), 1.0]
    assert step.trial_over.all()


def test_observational_data_ignores_the_choice_and_hides_the_common_cause() -> None:
    env = make_env("causal", nodes=4, hidden=True, data="observational")
    assert isinstance(env, CausalGraphs)
    assert (env.seen, env.spec.observation, env.spec.actions, env.spec.episode_steps) == (3, 10, 3, 4)
    params = {"edges": torch.zeros(2, 6, dtype=torch.long)}
    env.reset(params, noise=torch.zeros(2, 4))
    step = env.step(torch.tensor([0, 2]), torch.full((2, 4), 0.5))
    assert torch.equal(step.observation[0], step.observation[1])
    assert not step.observation[:, 3:6].any(), "nothing was set"


def test_the_posterior_and_both_expectations_by_hand() -> None:
    """One edge, x1 = w x0: with x0 set to 5 the likelihood of x1 is that of N(5 w, 0.1); seen together they are
    correlated, and x0 given x1 = -5 is -5 w / (1 + w^2), where setting x1 leaves it at 0."""
    env = make_env("causal", nodes=2)
    tables = GraphTables(env)  # type: ignore[arg-type]
    assert tables.edges[:, 0].tolist() == [-1, 0, 1]
    found = tables.log_likelihood(torch.tensor([[5.0, 4.6]]), torch.tensor([0]))[0]
    hand = [-((4.6 - 5 * w) ** 2) / 0.2 for w in (-1, 0, 1)]
    assert (found - found[0]).tolist() == pytest.approx([value - hand[0] for value in hand])
    both = tables.log_likelihood(torch.tensor([[0.3, -0.2]]), torch.tensor([-1]))[0]
    hand = [-(0.3**2) / 0.2 - ((-0.2 - w * 0.3) ** 2) / 0.2 for w in (-1, 0, 1)]
    assert (both - both[0]).tolist() == pytest.approx([value - hand[0] for value in hand])
    do, seen = tables.quiz_means(False), tables.quiz_means(True)
    assert do[1].tolist() == [pytest.approx([0.0, -5.0])] * 3, "setting an effect tells nothing of its cause"
    assert seen[1, :, 0].tolist() == pytest.approx([-5 * w / (1 + w * w) for w in (-1, 0, 1)])
    assert do[0, :, 1].tolist() == seen[0, :, 1].tolist() == pytest.approx([5.0, 0.0, -5.0])


def test_who_knows_more_names_better_nodes() -> None:
    values = {}
    for data in ("interventional", "observational"):
        tasks = make_tasks("causal", data=data)
        params = tasks.batch(3, range(3000))
        for rule in ("do", "associative"):
            values[data, rule] = float(play(tasks.env, CausalReasoner(tasks.env, rule), params).sum(1).mean())  # type: ignore[arg-type]
    assert values["interventional", "do"] > values["interventional", "associative"] > values["observational", "do"]
    assert values["observational", "do"] > values["observational", "associative"]


def test_bounds_are_those_of_who_knows_the_graph() -> None:
    env = make_env("causal", nodes=2)
    bounds = task_bounds(env, {"edges": torch.tensor([[-1], [0], [1]])})
    # x0 set: x1 is -5 w, so the best is max(-5, -5 w); x1 set: the best is x0, 0 on average.
    assert bounds.ceiling.tolist() == pytest.approx([(5 + 0) / 2, (0 + 0) / 2, (-5 + 0) / 2])
    assert bounds.floor.tolist() == pytest.approx([((-5 - 5 * w) / 2 - 2.5) / 2 for w in (-1, 0, 1)])
    assert weights_of(torch.tensor([1, -1, 0]), 3).tolist() == [[0, 0, 0], [1, 0, 0], [-1, 0, 0]]


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="fewer than two"):
        make_env("causal", nodes=2, hidden=True)
    with pytest.raises(ConfigError, match="interventional or observational"):
        make_env("causal", data="both")
    with pytest.raises(ConfigError, match="too many to list"):
        GraphTables(make_env("causal", nodes=5))  # type: ignore[arg-type]
