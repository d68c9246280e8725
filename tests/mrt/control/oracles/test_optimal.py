"""What whoever knows the task does: it earns the known-task optimum, and its labels change nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mrt.control.agent import RandomAgent, ScriptedAgent
from mrt.control.envs import make_tasks
from mrt.control.envs.base import TensorEnv
from mrt.control.interaction import play
from mrt.control.oracles import floor_and_ceiling
from mrt.control.oracles.optimal import Labelled, best_actions
from mrt.control.rollout import rollout
from mrt.errors import ConfigError


class KnowsTask(ScriptedAgent):
    """Plays `best_actions` of the environment that it is in."""

    on_cpu = False

    def __init__(self, env: TensorEnv) -> None:
        self.env = env

    def choose(self, observation: Tensor, state: dict[str, Any]) -> Tensor:
        return best_actions(self.env)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("grid-navi", {}),
        ("dark-room", {"size": 5, "steps": 12}),
        ("dark-room", {"size": 5, "steps": 12, "pays": "once"}),
        ("dark-room", {"size": 5, "steps": 12, "pays": "ends", "start": "random"}),
        ("informative-bandit", {}),
    ],
)
def test_it_earns_the_optimum_of_the_known_task(name: str, options: dict) -> None:
    tasks = make_tasks(name=name, **options)
    params = tasks.batch(0, range(64))
    if options.get("start") == "random":  # the start is drawn: the optimum is an expectation
        earned = play(tasks.env, KnowsTask(tasks.env), params, seed=0).sum(1)
        assert bool((earned == tasks.env.spec.episodes).all())
        return
    earned = play(tasks.env, KnowsTask(tasks.env), params, seed=0).sum(1)
    assert torch.allclose(earned, floor_and_ceiling(tasks.env, params).ceiling.double(), atol=1e-4)


def test_moving_bandits_are_walked_to_the_right_place() -> None:
    tasks = make_tasks(name="moving-bandits")
    params = tasks.batch(0, range(200))
    earned = play(tasks.env, KnowsTask(tasks.env), params, seed=0).sum(1)
    ceiling = floor_and_ceiling(tasks.env, params).ceiling
    assert float(earned.mean()) > 0.97 * float(ceiling.mean())


def test_labels_stand_beside_and_change_nothing() -> None:
    tasks = make_tasks(name="dark-room", size=4, steps=6, episodes=2)
    params = tasks.batch(1, range(16))
    plain = rollout(tasks.env, RandomAgent(tasks.env.spec, 3), params, seed=5)
    labelled = rollout(tasks.env, Labelled(RandomAgent(tasks.env.spec, 3), tasks.env), params, seed=5)
    assert torch.equal(plain.actions, labelled.actions)
    assert torch.equal(plain.rewards, labelled.rewards)
    best = labelled.inputs["best"]
    tasks.env.reset(params, 5)
    assert torch.equal(best[:, 0], best_actions(tasks.env))


def test_where_it_is_not_known() -> None:
    tasks = make_tasks(name="t-maze")
    tasks.env.reset(tasks.batch(0, [0]))
    with pytest.raises(ConfigError, match="is not known for t-maze"):
        best_actions(tasks.env)
