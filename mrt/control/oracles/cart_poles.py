"""What can be earned with a pole: random play, a rule that needs no learning, and an episode without a fall."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mrt.control.agent import RandomAgent, ScriptedAgent
from mrt.control.envs.cart_pole import CartPole
from mrt.control.interaction import play
from mrt.control.oracles.bounds import Bounds, floor_and_ceiling

FLOOR_TRIALS = 16  # of random play, a task


class FallingSide(ScriptedAgent):
    """Pushes to the side to which the pole turns."""

    on_cpu = False

    def choose(self, observation: Tensor, state: dict[str, Any]) -> Tensor:
        """(B,) 0 or 1 from observations (B, 4)."""
        return (observation[:, 3] > 0).long()


@floor_and_ceiling.register
def _poles(env: CartPole, params: Mapping[str, Tensor]) -> Bounds:
    """Floor: mean of `FLOOR_TRIALS` random trials a task, seed 0. Ceiling: no pole falls."""
    many = {name: value.repeat_interleave(FLOOR_TRIALS, 0) for name, value in params.items()}
    played = play(env.with_spec(), RandomAgent(env.spec, seed=1), many).sum(1)
    floor = played.view(-1, FLOOR_TRIALS).mean(1).float()
    return Bounds(floor, torch.full_like(floor, env.spec.trial_steps))
