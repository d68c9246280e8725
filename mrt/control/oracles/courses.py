"""What can be earned with a pole, and on a course of hurdles: by random play, by a rule, and without a fall."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mrt.control.agent import ScriptedAgent
from mrt.control.envs.cart_pole import CartPole
from mrt.control.envs.hurdles import Hurdles
from mrt.control.oracles.base import random_returns
from mrt.control.oracles.bounds import Bounds, floor_and_ceiling


class FallingSide(ScriptedAgent):
    """Pushes to the side to which the pole turns."""

    on_cpu = False

    def choose(self, observation: Tensor, state: dict[str, Any]) -> Tensor:
        """(B,) 0 or 1 from observations (B, 4)."""
        return (observation[:, 3] > 0).long()


@floor_and_ceiling.register
def _poles(env: CartPole, params: Mapping[str, Tensor]) -> Bounds:
    """Floor: random play, `random_returns`. Ceiling: no pole falls."""
    floor = random_returns(env, params)
    return Bounds(floor, torch.full_like(floor, env.spec.trial_steps))


@floor_and_ceiling.register
def _hurdles(env: Hurdles, params: Mapping[str, Tensor]) -> Bounds:
    """Floor: random play, `random_returns`. Ceiling: the whole course, which can be done on every task."""
    floor = random_returns(env, params)
    return Bounds(floor, torch.full_like(floor, float(env.spec.episodes)))
