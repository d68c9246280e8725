"""Repeated matrix games of two players and two actions, with their exact values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mrt.errors import ConfigError, nearest
from mrt.tasks import Task

STATES = 5  # the first step, then what was done last: CC, CD, DC, DD, one's own action first
SEEN_BY_TWO = (0, 1, 3, 2, 4)  # the same states by their numbers for player two
GAMES = {  # payoffs (one, two) after CC, CD, DC, DD
    "prisoners-dilemma": ((-1.0, -1.0), (-3.0, 0.0), (0.0, -3.0), (-2.0, -2.0)),
    "matching-pennies": ((1.0, -1.0), (-1.0, 1.0), (-1.0, 1.0), (1.0, -1.0)),
}


@dataclass(frozen=True)
class Game:
    """A matrix game of two actions, played again and again; every task is one play of it.

    Raises:
        ConfigError: for a game that is not known.
    """

    name: str = "prisoners-dilemma"

    def __post_init__(self) -> None:
        if self.name not in GAMES:
            raise ConfigError(f"game '{self.name}' is unknown; {nearest(self.name, set(GAMES))}")

    @property
    def payoffs(self) -> Tensor:
        """(4, 2) of both players after CC, CD, DC, DD."""
        return torch.tensor(GAMES[self.name])

    def sample(self, seed: int, index: int) -> Task:
        return Task(f"{self.name}:{seed}:{index}")


def chances(first: Tensor, second: Tensor) -> Tensor:
    """(5, 4) of the outcomes CC, CD, DC, DD in every state, for policies given as logits to cooperate (5,)."""
    one, two = torch.sigmoid(first), torch.sigmoid(second)[list(SEEN_BY_TWO)]
    return torch.stack([one * two, one * (1 - two), (1 - one) * two, (1 - one) * (1 - two)], 1)


def exact_values(first: Tensor, second: Tensor, payoffs: Tensor, gamma: float) -> Tensor:
    """(2,) discounted payoffs of both players over an endless play: V = d' (I - gamma P)^-1 r."""
    table = chances(first, second)
    ahead = torch.eye(4, dtype=table.dtype, device=table.device) - gamma * table[1:]
    return table[0] @ torch.linalg.solve(ahead, payoffs.to(table))
