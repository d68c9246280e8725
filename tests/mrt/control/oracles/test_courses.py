"""Poles and hurdles: what random play and rules without learning get, and that nobody beats the ceiling."""

from __future__ import annotations

import pytest

from mrt.control.envs import make_tasks
from mrt.control.interaction import play
from mrt.control.oracles import task_bounds
from mrt.control.oracles.courses import FallingSide
from mrt.control.oracles.references import players


def test_bounds_and_the_rule_that_needs_no_learning() -> None:
    tasks = make_tasks("cart-pole", episodes=2)
    params = tasks.batch(0, range(50))
    bounds = task_bounds(tasks.env, params)
    assert bounds.ceiling.tolist() == [1000.0] * 50
    assert float(bounds.floor.mean()) == pytest.approx(2 * 24, abs=5)
    rule = play(tasks.env, FallingSide(), params).sum(1)
    assert float(bounds.floor.mean()) < float(rule.mean()) < 1000
    assert set(players(tasks.env)) == {"push to the falling side"}


def test_a_course_is_done_or_not() -> None:
    tasks = make_tasks("hurdles")
    bounds = task_bounds(tasks.env, tasks.batch(0, range(20)))
    assert bounds.ceiling.tolist() == [1.0] * 20
    assert 0 < float(bounds.floor.mean()) < 0.3
