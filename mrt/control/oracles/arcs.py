"""The exact belief about the goal on the sparse semicircle, and agents that act on it: by searching, by sampling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mrt.control.agent import ScriptedAgent, Seen
from mrt.control.envs.navigation import SparseSemicircle
from mrt.control.oracles.beliefs import BELIEF
from mrt.errors import ConfigError

CELLS = 360  # of the half circle


class ArcSearch(ScriptedAgent):
    """A belief (B, CELLS) over equal pieces of the half circle, all alike at first. A step that pays nothing rules out
    what lies within the radius, one that pays 1 - d what does not lie d away: exact, but for the width of a piece.

    It walks to the nearest piece that is left, and so along the arc; what is left in the next episode it goes on with.
    That is a rule, not the optimum. Once all that is left lies together it stays in the middle of it.

    Raises:
        ConfigError: for dense rewards, which give the goal away.
    """

    def __init__(self, env: SparseSemicircle) -> None:
        if env.reward != "sparse":
            raise ConfigError("dense rewards on the semicircle leave nothing to search for; there is reward: sparse")
        self.radius, self.stride = env.radius, env.stride
        self.angles = (torch.arange(CELLS, dtype=torch.float64) + 0.5) * math.pi / CELLS
        self.places = torch.stack([self.angles.cos(), self.angles.sin()], 1)
        self.half = math.pi / CELLS / 2 + 1e-5  # no point of a piece is farther from its middle; float32 rewards

    def start(self, rows: int) -> dict[str, Any]:
        return {BELIEF: torch.full((rows, CELLS), 1 / CELLS, dtype=torch.float64)}

    def learn(self, seen: Seen, state: dict[str, Any]) -> dict[str, Any]:
        """At the start of an episode nothing is paid either, and nothing is near."""
        away, reward = self._away(seen["observation"]), seen["reward"].double()[:, None]
        far = (away - (1 - reward)).abs() > self.half
        near = away <= self.radius - self.half
        left = torch.where(torch.where(reward > 0, far, near), 0.0, state[BELIEF])
        return {**state, BELIEF: left / left.sum(1, keepdim=True)}

    def choose(self, observation: Tensor, state: dict[str, Any]) -> Tensor:
        left = state[BELIEF] > 0
        angles = self.angles.expand_as(left)
        low, high = angles.where(left, math.inf).amin(1), angles.where(left, -math.inf).amax(1)
        middle = (low + high) / 2
        found = (high - low) < self.radius
        nearest = self._away(observation).where(left, math.inf).argmin(1)
        target = torch.where(found, middle, self.angles[nearest])
        goal = torch.stack([target.cos(), target.sin()], 1)
        return ((goal - observation) / self.stride).clamp(-1, 1).float()

    def extras(self, state: dict[str, Any]) -> Mapping[str, Tensor]:
        return {BELIEF: state[BELIEF].float()}

    def _away(self, observation: Tensor) -> Tensor:
        """(B, CELLS) distances of the middles of all pieces from the positions (B, 2)."""
        return torch.cdist(observation.double(), self.places, compute_mode="donot_use_mm_for_euclid_dist")


class ArcSampling(ArcSearch):
    """Posterior sampling on the exact belief: draws a piece at the start of each episode, goes straight there and
    stays, as who knows the task would. What PEARL comes to with a perfect encoder (Rakelly et al. 2019, 1903.08254).
    """

    def __init__(self, env: SparseSemicircle, seed: int = 0) -> None:
        super().__init__(env)
        self.generator = torch.Generator().manual_seed(0x3C6EF372 ^ (seed << 16))

    def start(self, rows: int) -> dict[str, Any]:
        state = super().start(rows)
        return {**state, "drawn": self._draw(state[BELIEF]), "ended": torch.zeros(rows, dtype=torch.bool)}

    def learn(self, seen: Seen, state: dict[str, Any]) -> dict[str, Any]:
        """After the end of an episode the next one has a draw of its own."""
        drawn = state["drawn"]
        state = super().learn(seen, state)
        if bool(state["ended"].any()):
            drawn = torch.where(state["ended"], self._draw(state[BELIEF]), drawn)
        return {**state, "drawn": drawn, "ended": seen["done"] > 0.5}

    def choose(self, observation: Tensor, state: dict[str, Any]) -> Tensor:
        return ((self.places[state["drawn"]] - observation) / self.stride).clamp(-1, 1).float()

    def _draw(self, belief: Tensor) -> Tensor:
        return torch.multinomial(belief, 1, generator=self.generator)[:, 0]
