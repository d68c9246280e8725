"""Exact values of stopping against brute force: every history is set beside every task, and J is a plain maximum over
what is left of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mrt.control.agent import RandomAgent
from mrt.control.envs import make_tasks
from mrt.control.envs.base import TensorEnv
from mrt.control.envs.buses import BUSES, CENTRE, MAP, ORDERS, RIDE, SIZE, BusGrid
from mrt.control.interaction import Interaction, Moment
from mrt.control.oracles.buses import known_orders, ride_values
from mrt.control.oracles.stopping import knowledge_of
from mrt.errors import ConfigError

PULLS = {"pulls": 1, "episodes": 5}


def histories(env: TensorEnv, params: dict[str, Tensor], seed: int = 0) -> tuple[list[Moment], list[Tensor]]:
    """Random play: every moment, and J after it."""
    knowledge = knowledge_of(env)
    interaction = Interaction(env, RandomAgent(env.spec, seed), params, seed=seed)
    knowledge.begin(len(interaction.over), env.device)
    moments, values = [], [knowledge.values()]
    for moment in interaction:
        knowledge.learn(moment)
        moments.append(moment)
        values.append(knowledge.values())
    return moments, values


def by_grid(moments: list[Moment], likelihood: Callable[[Tensor, Tensor], Tensor], means: Tensor) -> Tensor:
    """(B,) largest posterior mean of an arm: tasks `means` (N, arms), all equally likely at first.

    `likelihood`: (means of the pulled arm (N,), reward) -> (N,).
    """
    rows = len(moments[0].acting)
    logs = torch.zeros(rows, len(means), dtype=torch.float64)
    for moment in moments:
        for row in range(rows):
            if moment.acting[row]:
                pulled = means[:, int(moment.choice.actions[row])]
                logs[row] += likelihood(pulled, moment.step.reward[row]).clamp(min=1e-300).log()
    return (logs.softmax(1) @ means).amax(1).float()


def bernoulli(mean: Tensor, reward: Tensor) -> Tensor:
    return mean if float(reward) > 0.5 else 1 - mean


def gaussian(mean: Tensor, reward: Tensor) -> Tensor:
    return torch.exp(-((float(reward) - mean) ** 2) / (2 * 0.3**2))


def pairs(cells: int = 400) -> Tensor:
    axis = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    return torch.cartesian_prod(axis, axis)


def targets() -> Tensor:
    means = torch.ones(10, 11, dtype=torch.float64) + 4 * torch.eye(10, 11, dtype=torch.float64)
    means[:, 10] = torch.arange(1, 11) / 10
    return means


@pytest.mark.parametrize(
    ("options", "likelihood", "means"),
    [
        ({"name": "bernoulli-bandit", "arms": 2}, bernoulli, pairs()),
        ({"name": "gaussian-bandit", "arms": 2}, gaussian, pairs()),
        ({"name": "dependent-bandit", "kind": "easy"}, bernoulli, torch.tensor([[0.9, 0.1], [0.1, 0.9]]).double()),
        ({"name": "dependent-bandit"}, bernoulli, torch.stack([pairs()[:400, 1], 1 - pairs()[:400, 1]], 1)),
        ({"name": "informative-bandit"}, lambda mean, reward: (mean - float(reward)).abs() < 1e-6, targets()),
    ],
    ids=["bernoulli", "gaussian", "two-hypotheses", "dependent", "informative"],
)
def test_bandits_are_worth_the_best_posterior_mean(options: dict[str, Any], likelihood: Any, means: Tensor) -> None:
    tasks = make_tasks(**options, **PULLS)
    moments, values = histories(tasks.env, tasks.batch(0, range(6)))

    def chance(mean: Tensor, reward: Tensor) -> Tensor:
        return likelihood(mean, reward).double()

    assert len(moments) == 9  # five pulls and four closing rows
    for count in (0, 1, 4, 9):
        expected = by_grid(moments[:count], chance, means) if count else means.mean(0).amax().expand(6).float()
        assert torch.allclose(values[count], expected, atol=2e-3)


def test_asking_pays_at_once_what_guessing_pays_by_luck() -> None:
    """Informative arm, by hand: J_0 = (5 + 9) / 10; then 5 behind arm 11 and a hit, (5 + 8) / 9 behind a miss."""
    env = make_tasks("informative-bandit", **PULLS).env
    knowledge = knowledge_of(env)
    interaction = Interaction(env, RandomAgent(env.spec), {"target": torch.tensor([3, 3, 3])})
    knowledge.begin(3, env.device)
    assert knowledge.values().tolist() == pytest.approx([1.4] * 3)
    moment = interaction.step()
    actions = torch.tensor([10, 0, 3])
    fresh = make_tasks("informative-bandit", **PULLS).env
    fresh.reset({"target": torch.tensor([3, 3, 3])})
    step = fresh.step(actions)
    knowledge.learn(moment._replace(choice=moment.choice._replace(actions=actions), step=step))
    assert knowledge.values().tolist() == pytest.approx([5.0, 13 / 9, 5.0])


def test_longer_episodes_multiply_a_bandits_value() -> None:
    one, three = (knowledge_of(make_tasks("bernoulli-bandit", pulls=pulls).env) for pulls in (1, 3))
    for knowledge in (one, three):
        knowledge.begin(2, torch.device("cpu"))
    assert torch.equal(three.values(), 3 * one.values())


def test_the_hallway_is_known_by_its_ends_and_by_its_sign() -> None:
    """Known exactly where the seen rewards and observations leave one of the two tasks."""
    tasks = make_tasks("hallway", half=2, dead_end=1, cost=0.1)
    params = tasks.batch(0, range(64))
    moments, values = histories(tasks.env, params)
    other = Interaction(tasks.env.clone(), RandomAgent(tasks.env.spec, 0), {"side": -params["side"]}, seed=0)
    told = torch.zeros(64, dtype=torch.bool)
    over = torch.zeros(64, dtype=torch.bool)
    for moment, after in zip(moments, values[1:], strict=True):  # the same actions, for both draw them from one seed
        if other.all_over:
            break
        twin = other.step()
        same = (moment.step.observation == twin.step.observation).all(1) & (moment.step.reward == twin.step.reward)
        over |= told  # once the two tasks part, so may their episodes
        told |= ~same & moment.acting
        assert torch.equal(told, after == torch.tensor(0.8))
        if bool(over.all()):
            break
    assert bool(told.any())
    assert values[0].tolist() == pytest.approx([1 - 4 * 0.1] * 64)


def test_what_is_known_of_the_buses_is_what_fits_the_rides() -> None:
    """Random play in all 24 tasks: as many orders fit the table as tasks move in the same way on the same actions."""
    env = make_tasks("dream-bus", steps=40).env
    assert isinstance(env, BusGrid)
    params = env.all_tasks()
    knowledge: Any = knowledge_of(env)
    agent = Near(env)
    interaction = Interaction(env, agent, params)
    knowledge.begin(24, env.device)
    orders = torch.tensor(ORDERS)
    fits = torch.ones(24, 24, dtype=torch.bool)  # (row, task): did that task show the same so far
    for moment in interaction.advance(40):
        before = moment.seen["observation"][:, : 2 * SIZE]
        cell = before[:, :SIZE].argmax(1) * SIZE + before[:, SIZE:].argmax(1)
        after = moment.step.observation
        at = after[:, :SIZE].argmax(1) * SIZE + after[:, SIZE : 2 * SIZE].argmax(1)
        rode = (moment.choice.actions == RIDE) & moment.acting
        there = env.rides[:, cell].T  # (row, task)
        fits &= ~rode[:, None] | (there == at[:, None])
        knowledge.learn(moment)
        agrees = ((knowledge.known[:, None] < 0) | (knowledge.known[:, None] == orders)).all(2)
        assert torch.equal(agrees, fits)
    assert int(fits.sum(1).min()) < 24
    assert knowledge.values()[fits.sum(1) == 1].tolist() == pytest.approx([0.8] * int((fits.sum(1) == 1).sum()))


class Near(RandomAgent):
    """Rides half of the time and walks at random around the centre."""

    def __init__(self, env: BusGrid) -> None:
        super().__init__(env.spec, seed=3)

    def choose(self, observation: Tensor, state: dict[str, Any]) -> Tensor:
        bus = observation[:, 2 * SIZE] > 0
        walk = torch.randint(4, (len(observation),), generator=self.generator)
        return torch.where(bus, RIDE, walk)


def test_the_map_tells_everything_at_once() -> None:
    env = make_tasks("dream-map").env
    assert isinstance(env, BusGrid)
    knowledge = knowledge_of(env)
    interaction = Interaction(env, RandomAgent(env.spec), env.all_tasks())
    knowledge.begin(24, env.device)
    assert knowledge.values().tolist() == pytest.approx([0.3] * 24)
    env.state["cell"] = torch.full((24,), (MAP[0] - 1) * SIZE + MAP[1])
    moment = interaction.step()
    env.state["cell"] = torch.full((24,), MAP[0] * SIZE + MAP[1])
    knowledge.learn(moment._replace(step=moment.step._replace(observation=env.observe())))
    assert knowledge.known.tolist() == [list(order) for order in ORDERS]  # type: ignore[attr-defined]
    assert knowledge.values().tolist() == pytest.approx([0.8] * 24)


def test_rides_are_worth_what_they_may_still_tell() -> None:
    """Nothing known 0.3; the bus of the corner known 0.8; another one known: the mean over what one more would tell is
    no less, for looking is free in the mean of what is known.
    """
    env = make_tasks("dream-bus").env
    assert isinstance(env, BusGrid)
    values, tables = ride_values(env), known_orders()
    number = {known: i for i, known in enumerate(tables)}
    assert CENTRE == (4, 4)
    assert values[:, number[(-1,) * 4]].tolist() == pytest.approx([0.3] * 4)
    assert values[0, number[(0, -1, -1, -1)]] == pytest.approx(0.8)  # stop 0 is beside corner 0
    for known, i in number.items():
        for bus in range(len(BUSES)):
            if known[bus] >= 0:
                continue
            fitting = [order for order in ORDERS if all(k in (-1, o) for k, o in zip(known, order, strict=True))]
            later = []
            for order in fitting:
                after = (*known[:bus], order[bus], *known[bus + 1 :])
                whole = next(o for o in (after, order) if o.count(-1) != 1)
                later.append(values[:, number[whole]])
            assert bool((torch.stack(later).mean(0) >= values[:, i] - 1e-9).all())


def test_where_nothing_is_known_the_cure_is_named() -> None:
    with pytest.raises(ConfigError, match=r"is known for sparse-semicircle\. Cure: probe=episodes"):
        knowledge_of(make_tasks("sparse-semicircle").env)
