"""What several oracles use."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mrt.control.agent import RandomAgent
from mrt.control.envs.base import TensorEnv
from mrt.control.interaction import play

RANDOM_TRIALS = 16  # of random play, a task


def mean_and_se(values: Tensor) -> tuple[float, float]:
    """Mean of (B,) and its standard error."""
    values = values.double()
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


def random_returns(env: TensorEnv, params: Mapping[str, Tensor]) -> Tensor:
    """(B,) float32 mean return of `RANDOM_TRIALS` trials of random play on each task, by one seed."""
    many = {name: value.repeat_interleave(RANDOM_TRIALS, 0) for name, value in params.items()}
    found = play(env.with_spec(), RandomAgent(env.spec, seed=1), many).sum(1)
    return found.view(-1, RANDOM_TRIALS).mean(1).float().to(next(iter(params.values())).device)
