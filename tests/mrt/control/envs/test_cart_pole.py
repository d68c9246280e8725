"""Cart-pole beside Gymnasium's, step by step, with poles of several lengths."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrt.control.envs import make_env, make_tasks
from mrt.errors import ConfigError


@pytest.mark.parametrize(("length", "mass"), [(0.5, 0.1), (0.25, 0.1), (1.0, 0.3)])
def test_it_moves_as_gymnasium_does(length: float, mass: float) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    theirs = gymnasium.make("CartPole-v1").unwrapped
    theirs.length, theirs.masspole = length, mass
    theirs.total_mass, theirs.polemass_length = theirs.masspole + theirs.masscart, theirs.masspole * length
    seen, _ = theirs.reset(seed=3)
    ours = make_env("cart-pole")
    ours.reset({"length": torch.tensor([length]), "mass": torch.tensor([mass])})
    ours.state = {"moving": torch.tensor(seen)[None]}
    rng = np.random.default_rng(0)
    for _ in range(200):
        action = int(rng.integers(2))
        seen, reward, terminated, _, _ = theirs.step(action)
        step = ours.step(torch.tensor([action]))
        np.testing.assert_allclose(step.observation[0].numpy(), seen, rtol=1e-4, atol=1e-5)
        assert float(step.reward) == reward
        assert bool(step.terminated) == terminated
        if terminated:
            break
    assert terminated


def test_tasks_are_poles() -> None:
    tasks = make_tasks("cart-pole")
    params = tasks.batch(0, range(2000))
    assert params["length"].min() >= 0.25
    assert params["length"].max() <= 1.0
    assert float(params["length"].mean()) == pytest.approx(0.625, abs=0.02)
    assert params["mass"].tolist() == pytest.approx([0.1] * 2000)
    assert tasks.env.task_ranges() == {"length": (0.25, 1.0)}
    with pytest.raises(ConfigError, match="the lowest first"):
        make_env("cart-pole", length=[1.0, 0.5])
