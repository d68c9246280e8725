"""Two bodies in a ring, each of which wins by pushing the other one out: RoboSumo (Al-Shedivat et al. 2018,
1710.03641, section 5.2) as two discs, on tensors.

`Sumo.play_both` steps both players; as an environment the second one is an opponent that grows stronger from
round to round, or a policy of your own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mrt.control.envs.base import Spec, TensorEnv
from mrt.control.envs.drifting import Start, check_chain, first_stage

Opponent = Callable[[Tensor], Tensor]  # observation (B, 8), its own body first -> actions (B, 2)


class Sumo(TensorEnv):
    """A trial is a match of `rounds` rounds; an episode is a round, won (+1) or lost (-1) when a body leaves the ring.

    Bodies are discs of radius 0.15 and equal mass in a ring of radius 1. An action is a force; velocities decay, a
    collision exchanges momentum along the line between the centres (restitution 1/2), and overlaps are undone.

        v <- 0.8 v + 0.02 a       x <- x + v       dense reward: 0.1 (|x_other| - |x_own|) a step besides

    The built-in opponent runs at the other's body at an angle: towards it plus `lean` times the perpendicular, with a
    force of `power`. Round h of a task has power + h growth, up to 1, and lean + h drift: who meets it has to keep
    adapting. Observation (8): own place and velocity, the other's place and velocity.

    Args:
        start: the round that a trial begins in: "first", or "any" that `chain` - 1 others follow, drawn for each task.
        chain: rounds that are played from there, in turn.
        opponent: replaces the built-in one; it sees the ring, and acts, from its own side and on the ring's device.
    """

    name = "sumo"
    task_draws = 5
    start_draws = 2
    RADIUS = 0.15

    def __init__(
        self,
        rounds: int = 7,
        steps: int = 60,
        *,
        reward: Literal["sparse", "dense"] = "sparse",
        start: Start = "first",
        opponent: Opponent | None = None,
        device: str | torch.device = "cpu",
        chain: int = 2,
    ) -> None:
        if rounds < 2 or reward not in ("sparse", "dense") or start not in ("first", "any"):
            raise ValueError(
                f"rounds={rounds}, reward={reward!r}, start={start!r}: rounds must be at least 2, reward "
                "sparse or dense, start first or any"
            )
        check_chain(chain, rounds)
        super().__init__(Spec(observation=8, episode_steps=steps, episodes=rounds, action_size=2), device)
        self.rounds, self.reward, self.start, self.opponent = rounds, reward, start, opponent
        self.stages, self.each, self.chain = rounds, 1, chain  # a stage of the chain is a round

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        begin = first_stage(u[:, 4], self.rounds, self.chain, self.start)
        return {
            "power": 0.3 + 0.3 * u[:, 0],
            "growth": 0.1 * u[:, 1],
            "lean": u[:, 2] - 0.5,
            "drift": 0.4 * (u[:, 3] - 0.5),
            "stage": begin,
        }

    def task_ranges(self) -> dict[str, tuple[float, float]]:
        return {"power": (0.3, 0.6), "growth": (0.0, 0.1), "lean": (-0.5, 0.5), "drift": (-0.2, 0.2)}

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        """Both in the ring's halves, up to 0.2 off the middle line."""
        side = 0.2 * (2 * u - 1)
        own = torch.stack([torch.full_like(side[:, 0], -0.5), side[:, 0]], 1)
        other = torch.stack([torch.full_like(side[:, 1], 0.5), side[:, 1]], 1)
        return {"place": torch.stack([own, other], 1), "velocity": torch.zeros(len(u), 2, 2, device=self.device)}

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        return self.play_both(actions, self.other_action())

    def play_both(self, own: Tensor, other: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """(next state, reward of the first player (B,), over (B,)) for forces (B, 2) of both, clamped to [-1, 1]."""
        force = torch.stack([own, other], 1).clamp(-1, 1)
        velocity = 0.8 * self.state["velocity"] + 0.02 * force
        place, velocity = collide(self.state["place"] + velocity, velocity, self.RADIUS)
        away = (place[..., 0] * place[..., 0] + place[..., 1] * place[..., 1]).sqrt()
        out = away > 1
        paid = out[:, 1].float() - out[:, 0].float()
        if self.reward == "dense":
            paid = paid + 0.1 * (away[:, 1] - away[:, 0])
        return {"place": place, "velocity": velocity}, paid, out.any(1)

    def other_action(self) -> Tensor:
        """(B, 2) what the opponent does now."""
        if self.opponent is not None:
            return -self.opponent(self.seen_by(1))
        stage = (self.params["stage"] + self.episode).clamp(max=self.rounds - 1).float()
        power = (self.params["power"] + stage * self.params["growth"]).clamp(max=1)
        lean = self.params["lean"] + stage * self.params["drift"]
        x, y = (self.state["place"][:, 0] - self.state["place"][:, 1]).unbind(1)
        x, y = x - lean * y, y + lean * x
        size = (x * x + y * y).sqrt().clamp(min=1e-6)
        return torch.stack([power * x / size, power * y / size], 1)

    def seen_by(self, player: int) -> Tensor:
        """(B, 8) one's own place and velocity, then the other's; the second player sees the ring turned half round."""
        order, sign = ([0, 1], 1.0) if player == 0 else ([1, 0], -1.0)
        both = torch.cat([self.state["place"], self.state["velocity"]], -1)[:, order]
        return sign * both.flatten(1)

    def observe(self) -> Tensor:
        return self.seen_by(0)


def collide(place: Tensor, velocity: Tensor, radius: float, restitution: float = 0.5) -> tuple[Tensor, Tensor]:
    """Places and velocities (B, 2, 2) of two discs of equal mass, a collision settled where they overlap.

    The approaching speed u along the line between the centres becomes -restitution u; momentum is kept.
    """
    x, y = (place[:, 1] - place[:, 0]).unbind(1)
    apart = (x * x + y * y).sqrt()
    safe = apart.clamp(min=1e-6)
    normal = torch.stack([torch.where(apart < 1e-6, 1.0, x / safe), torch.where(apart < 1e-6, 0.0, y / safe)], 1)
    touching = apart < 2 * radius
    gap = velocity[:, 0] - velocity[:, 1]
    speed = gap[:, 0] * normal[:, 0] + gap[:, 1] * normal[:, 1]
    impulse = torch.where(touching & (speed > 0), 0.5 * (1 + restitution) * speed, 0.0)
    overlap = torch.where(touching, 0.5 * (2 * radius - apart), 0.0)
    signs = torch.tensor([-1.0, 1.0], device=place.device)[:, None]
    return place + signs * (overlap[:, None] * normal)[:, None], velocity + signs * (impulse[:, None] * normal)[:, None]
