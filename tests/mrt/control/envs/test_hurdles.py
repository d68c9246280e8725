"""A course of hurdles: what stops, what is jumped, what is fallen into, and that every task can be done."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mrt.control.agent import ScriptedAgent
from mrt.control.envs import make_env, make_tasks
from mrt.control.envs.hurdles import DEEP, LENGTH, STARTS
from mrt.control.interaction import play


class Runner(ScriptedAgent):
    """Runs, and jumps before stumps and gaps."""

    def choose(self, observation: Tensor, state: dict) -> Tensor:
        way, height, width = observation[:, 4] * 3, observation[:, 5], observation[:, 6]
        jump = ((height > 0) & (way < 0.9) & (way > 0)) | ((width > 0) & (way < 0.25))
        return torch.stack([torch.ones(len(way)), torch.where(jump, 1.0, -1.0)], 1)


class Walker(ScriptedAgent):
    def choose(self, observation: Tensor, state: dict) -> Tensor:
        return torch.tensor([1.0, -1.0]).expand(len(observation), 2)


def returns(agent: ScriptedAgent, height: float, width: float) -> float:
    env = make_env("hurdles")
    return float(play(env, agent, {"height": torch.tensor([height]), "width": torch.tensor([width])}).sum())


def test_a_stump_stops_and_a_gap_swallows_whoever_walks() -> None:
    assert returns(Walker(), 0.0, 0.0) == pytest.approx(1.0, abs=1e-5)
    assert returns(Walker(), 0.5, 0.0) == pytest.approx(STARTS[0] / LENGTH, abs=0.01)
    env = make_env("hurdles")
    env.reset({"height": torch.tensor([0.0]), "width": torch.tensor([1.0])})
    for _ in range(env.spec.episode_steps):
        step = env.step(torch.tensor([[1.0, -1.0]]))
        if bool(step.terminated):
            break
    x, y = env.state["body"][0, :2].tolist()
    assert STARTS[1] < x < STARTS[1] + 1.7
    assert y < DEEP


@pytest.mark.parametrize("height", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("width", [0.0, 0.5, 1.0])
def test_every_task_can_be_done(height: float, width: float) -> None:
    assert returns(Runner(), height, width) == pytest.approx(1.0, abs=1e-5)


def test_in_the_air_nothing_pushes() -> None:
    env = make_env("hurdles")
    env.reset({"height": torch.zeros(2), "width": torch.zeros(2)})
    env.step(torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
    speed = env.state["body"][:, 2].clone()
    env.step(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
    assert torch.equal(env.state["body"][0], env.state["body"][1])
    assert torch.equal(env.state["body"][:, 2], speed)


def test_the_observation_tells_of_the_next_obstacle() -> None:
    env = make_tasks("hurdles").env
    env.reset({"height": torch.full((5,), 0.4), "width": torch.full((5,), 0.6)})
    env.state = {"body": torch.tensor([[x, 0.0, 1.0, 0.0] for x in (0.0, 2.0, 4.0, 8.0, 13.5)])}
    seen = env.observe()
    assert seen[:, 4].tolist() == pytest.approx([1.0, 1 / 3, 2 / 3, 1 / 3, 1 / 3])
    assert seen[:, 5].tolist() == pytest.approx([0.4, 0.4, 0.0, 0.4, 0.0])
    assert seen[:, 6].tolist() == pytest.approx([0.0, 0.0, 0.6, 0.0, 0.0])
