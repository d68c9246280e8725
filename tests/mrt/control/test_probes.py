"""Stop values by hand: a scripted explorer in a hallway without noise."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from mrt.control.agent import Agent, Choice
from mrt.control.envs import make_tasks
from mrt.control.envs.buses import BUSES, CENTRE, GOALS, MOVES, ORDERS, RIDE, SIZE, STAY, STOPS
from mrt.control.oracles import episode_bounds
from mrt.control.policy import ControlPolicy
from mrt.control.probes import ExactProbe, ExploitProbe
from mrt.control.rollout import rollout
from mrt.training.records import trial_metrics
from mrt.trials import PROVERS
from tests.support.policies import named, randomised


class Explorer(Agent):
    """Looks left, then right; from then on it goes where the goal was. State: side known (B,), turned round (B,)."""

    def init_state(self, rows: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(rows), torch.zeros(rows, dtype=torch.bool)

    def act(self, seen: Any, state: Any, greedy: bool = False, generator: Any = None) -> Choice:
        side, turned = state
        place, done = seen["observation"][:, 0], seen["done"] > 0.5
        side = torch.where(seen["reward"] > 0.5, place.sign(), side)
        turned = (turned | (place <= -1)) & ~done
        right = torch.where(side == 0, turned, side > 0)
        zeros = torch.zeros(len(right))
        return Choice(right.long(), zeros, zeros, (side, turned))


def test_stop_values_by_hand() -> None:
    """half = 2, a step costs 0.1. Goal left: 2 steps, 0.8 at once. Goal right: 2 + 4 steps, 0.4, and 0.8 once known."""
    tasks = make_tasks("hallway", half=2, cost=0.1, episodes=2)
    probe: Any = ExploitProbe(samples=2)
    trials = rollout(tasks.env, Explorer(), {"side": torch.tensor([-1, 1, -1])}, probe=probe)
    expected = torch.tensor([[0.8, 0.8, 0.8], [0.4, 0.8, 0.8], [0.8, 0.8, 0.8]])
    assert torch.allclose(trials.stop_values, expected)
    assert torch.allclose(trials.stop_value_se, torch.zeros(3, 3), atol=1e-6)
    assert trials.prover.tolist() == [PROVERS["forced"]] * 3
    assert trials.cost["probe_steps"].tolist() == [2 * 6, 2 * 10, 2 * 6]
    assert trials.cost["env_steps"].tolist() == [4, 8, 4]
    assert trial_metrics(trials)["progress/mean"] == pytest.approx(0.4 / 6)
    assert trials.returns.tolist() == pytest.approx([1.6, 1.2, 1.6])


def test_one_sample_has_no_standard_error() -> None:
    tasks = make_tasks("hallway", half=2, cost=0.1, episodes=2)
    probe: Any = ExploitProbe()
    trials = rollout(tasks.env, Explorer(), {"side": torch.tensor([1])}, probe=probe)
    assert trials.stop_values[0].tolist() == pytest.approx([0.4, 0.8, 0.8])
    assert bool(trials.stop_value_se.isnan().all())


class FirstArm(Explorer):
    """Pulls arm 0 for ever."""

    def act(self, seen: Any, state: Any, greedy: bool = False, generator: Any = None) -> Choice:
        zeros = torch.zeros(len(seen["done"]))
        return Choice(zeros.long(), zeros, zeros, state)


def test_noise_differs_between_samples_and_boundaries() -> None:
    """Arm 0 pays with chance 0.9: ten pulls give 9 on average with deviation sqrt(0.9)."""
    tasks = make_tasks("dependent-bandit", kind="easy", pulls=10)
    probe: Any = ExploitProbe(samples=4000)
    torch.manual_seed(0)
    trials = rollout(tasks.env, FirstArm(), {"means": torch.tensor([[0.9, 0.1]])}, probe=probe)
    error = (0.9 / 4000) ** 0.5
    assert bool(((trials.stop_values - 9).abs() < 4 * error).all())
    assert torch.allclose(trials.stop_value_se, torch.full((1, 2), error), rtol=0.05)
    assert trials.stop_values[0, 0] != trials.stop_values[0, 1]


@pytest.mark.parametrize("memory", ["gru", "transformer", "snail", "long-window", "short-window", "episodic-lstm"])
def test_a_probe_leaves_the_trial_as_it_was(memory: str) -> None:
    tasks = make_tasks("hallway", half=2, cost=0.1, episodes=3)
    policy = randomised(ControlPolicy.for_spec(tasks.env.spec, memory=named(memory), hidden_size=8)).eval()
    params = tasks.batch(0, range(6))

    def played(probe: Any) -> Any:
        return rollout(tasks.env, policy, params, generator=torch.Generator().manual_seed(2), probe=probe)

    plain, probed = played(None), played(ExploitProbe(samples=3, greedy=False))
    for name in ("actions", "rewards", "mask", "episode", "logprobs"):
        assert torch.equal(getattr(plain, name), getattr(probed, name)), name
    assert torch.equal(plain.values.nan_to_num(), probed.values.nan_to_num())
    assert not probed.stop_values.isnan().any()


def test_greedy_stop_values_are_those_of_the_next_episode() -> None:
    """Without noise a greedy trial's next episode is the exploitation episode: J_j is the return of episode j + 1."""
    tasks = make_tasks("navigation-2d", steps=5, episodes=3)
    policy = randomised(ControlPolicy.for_spec(tasks.env.spec, hidden_size=8), seed=2).eval()
    params = tasks.batch(0, range(8))
    trials = rollout(tasks.env, policy, params, greedy=True, probe=ExploitProbe())
    longer = rollout(tasks.env.with_spec(episodes=4), policy, params, greedy=True)
    earned = torch.stack([torch.where(longer.episode == j, longer.rewards, 0.0).sum(1) for j in range(4)], 1)
    assert torch.allclose(trials.stop_values, earned, atol=1e-5)
    assert len(earned.unique()) > 2


class BusRider(Agent):
    """Knows where every bus goes: it stays while exploring, and then walks to the right bus, rides and walks on."""

    def __init__(self, order: Tensor) -> None:
        self.order = order

    def init_state(self, rows: int) -> Tensor:
        return self.order

    def act(self, seen: Any, state: Any, greedy: bool = False, generator: Any = None) -> Choice:
        actions = [self.choose(view, int(order)) for view, order in zip(seen["observation"], state, strict=True)]
        zeros = torch.zeros(len(actions))
        return Choice(torch.tensor(actions), zeros, zeros, state)

    def choose(self, view: Tensor, order: int) -> int:
        told = view[2 * SIZE + 1 : 2 * SIZE + 5]
        here = (int(view[:SIZE].argmax()), int(view[SIZE : 2 * SIZE].argmax()))
        goal = GOALS[int(told.argmax())]
        if not told.any() or here == goal:  # exploring, or the row that closes an episode
            return STAY
        stop = next(i for i, at in enumerate(STOPS) if abs(at[0] - goal[0]) + abs(at[1] - goal[1]) == 1)
        bus = BUSES[ORDERS[order].index(stop)]
        if here == bus:
            return RIDE
        target = bus if here == CENTRE else goal
        return MOVES.index((target[0] - here[0], target[1] - here[1]))


def test_an_exact_table_has_no_regret_where_exploring_is_free() -> None:
    """Bus grid, all 24 tasks: J is 0.8 at every boundary, also before the free episode, and regret is 0 by both."""
    tasks = make_tasks("dream-bus")
    params = tasks.env.all_tasks()  # type: ignore[attr-defined]
    torch.manual_seed(0)
    trials = rollout(tasks.env, BusRider(params["order"]), params, probe=ExploitProbe(samples=2))
    assert torch.allclose(trials.stop_values, torch.full((24, 3), 0.8), atol=1e-6)
    known = dataclasses.replace(trials, privileged=episode_bounds(tasks.env, params))
    assert known.privileged["oracle"].tolist() == pytest.approx([0.8] * 24)
    assert trial_metrics(known)["regret/stop"] == pytest.approx(0, abs=1e-6)
    assert trial_metrics(known)["regret/return"] == pytest.approx(0, abs=1e-6)


class WalksToFirst(Agent):
    """Walks to the first corner, whichever it is sent to: 0.3 where that is the one, else -1 in 10 steps."""

    def init_state(self, rows: int) -> None:
        return None

    def act(self, seen: Any, state: Any, greedy: bool = False, generator: Any = None) -> Choice:
        high = seen["observation"][:, SIZE : 2 * SIZE].argmax(1) > 0
        zeros = torch.zeros(len(high))
        return Choice(torch.where(high, MOVES.index((0, -1)), MOVES.index((-1, 0))), zeros, zeros, state)


def test_common_noise_gives_every_boundary_the_same_episodes() -> None:
    """The corner of an exploitation episode is drawn: common noise draws the same one at all boundaries of a row."""
    tasks = make_tasks("dream-bus", steps=10)
    params = tasks.env.all_tasks()  # type: ignore[attr-defined]

    def values(**options: Any) -> Tensor:
        torch.manual_seed(0)
        found = rollout(tasks.env, WalksToFirst(), params, probe=ExploitProbe(**options)).stop_values
        assert found is not None
        return found

    common, fresh = values(common=True), values()
    assert sorted({round(value, 5) for value in common.flatten().tolist()}) == [-1.0, 0.3]
    assert bool((common == common[:, :1]).all())
    assert bool((fresh != fresh[:, :1]).any())
    many = values(common=True, samples=400)
    expected = 0.25 * 0.3 - 0.75
    assert float((many - expected).abs().max()) < 5 * 1.3 * (3 / 16 / 400) ** 0.5  # and each J keeps its law
    assert bool((many == many[:, :1]).all())


def test_the_last_boundary_can_be_left_out() -> None:
    """J_0 and J_1 as before, J_2 not measured and not paid for."""
    tasks = make_tasks("hallway", half=2, cost=0.1, episodes=2)
    probe: Any = ExploitProbe(samples=2, last=False)
    trials = rollout(tasks.env, Explorer(), {"side": torch.tensor([-1, 1, -1])}, probe=probe)
    assert torch.allclose(trials.stop_values[:, :2], torch.tensor([[0.8, 0.8], [0.4, 0.8], [0.8, 0.8]]))
    assert bool(trials.stop_values[:, 2].isnan().all())
    assert trials.cost["probe_steps"].tolist() == [2 * 4, 2 * 8, 2 * 4]


def test_an_exact_probe_takes_no_step() -> None:
    """Informative arm, five pulls, an episode each; arm 11 in the second: 1.4, then 13/9 or 5, and 5 from there on."""
    tasks = make_tasks("informative-bandit", pulls=1, episodes=5)
    probe: Any = ExactProbe(tasks.env)
    trials = rollout(tasks.env, SecondAsks(), {"target": torch.tensor([3, 0])}, probe=probe)
    expected = torch.tensor([[1.4, 13 / 9, 5, 5, 5, 5], [1.4, 5, 5, 5, 5, 5]])
    assert torch.allclose(trials.stop_values, expected)
    assert trials.stop_value_se.tolist() == [[0.0] * 6] * 2
    assert trials.cost["probe_steps"].tolist() == [0, 0]
    assert trials.cost["env_steps"].tolist() == [5, 5]
    assert trials.prover.tolist() == [PROVERS["forced"]] * 2


class SecondAsks(Agent):
    """Pulls arm 0, then arm 11, then arm 0 again. State: rows seen so far; every second one closes an episode."""

    def init_state(self, rows: int) -> int:
        return 0

    def act(self, seen: Any, state: int, greedy: bool = False, generator: Any = None) -> Choice:
        zeros = torch.zeros(len(seen["done"]))
        return Choice(torch.full_like(zeros, 10 if state == 2 else 0).long(), zeros, zeros, state + 1)
