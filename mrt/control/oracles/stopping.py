"""Exact values of stopping: what one exploitation episode is worth to whoever has seen what the trial has shown.

    J = max over policies of one episode of E[return | history]          (bandits: of those that pull one arm)

The expectation is over the posterior of the tasks, so that J asks what is known and not what the policy makes of it:
finding something out pays before the policy has learned to use it. No environment step is taken. `Knowledge` reads what
the agent saw, never the task itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import singledispatch

import torch
from torch import Tensor

from mrt.control.envs.bandits import BernoulliBandit, DependentBandit, GaussianBandit, InformativeBandit
from mrt.control.envs.base import TensorEnv
from mrt.control.envs.buses import BUSES, MAP, ORDERS, RIDE, SIZE, STOPS, BusGrid
from mrt.control.envs.corridors import Hallway
from mrt.control.interaction import Moment
from mrt.control.oracles.buses import known_orders, ride_values
from mrt.control.oracles.hallway import hallway_bayes
from mrt.errors import ConfigError

RAN_OUT = 1e-6  # of a probability that is divided by


class Knowledge(ABC):
    """What B trials have shown so far: a sufficient statistic of the tasks, and J given it."""

    @abstractmethod
    def begin(self, rows: int, device: torch.device) -> None:
        """At the start of `rows` trials."""

    @abstractmethod
    def learn(self, moment: Moment) -> None:
        """After a step of all rows; only those with `moment.acting` count."""

    @abstractmethod
    def values(self) -> Tensor:
        """(B,) float32: J now."""


@singledispatch
def knowledge_of(env: TensorEnv) -> Knowledge:
    """The exact value of stopping in `env`.

    Raises:
        ConfigError: for an environment where none is known. Others add theirs by `knowledge_of.register`.
    """
    raise ConfigError(f"no exact value of stopping is known for {env.name}. Cure: probe=episodes")


class ArmCounts(Knowledge):
    """(B, arms) pulls and sums of rewards; J is that of the arm of largest posterior mean, times the pulls."""

    def __init__(self, env: BernoulliBandit | GaussianBandit | DependentBandit) -> None:
        self.arms, self.pulls = env.spec.actions, env.spec.episode_steps

    def begin(self, rows: int, device: torch.device) -> None:
        self.count = self.paid = torch.zeros(rows, self.arms, device=device)

    def learn(self, moment: Moment) -> None:
        arm, acting = moment.choice.actions[:, None], moment.acting[:, None]
        self.count = self.count.scatter_add(1, arm, acting.float())
        self.paid = self.paid.scatter_add(1, arm, moment.step.reward[:, None] * acting)

    def values(self) -> Tensor:
        return self.pulls * self.means().amax(1)

    @abstractmethod
    def means(self) -> Tensor:
        """(B, arms) posterior means."""


class BernoulliCounts(ArmCounts):
    """Independent arms, p ~ U[0, 1]: (s + 1) / (n + 2)."""

    def means(self) -> Tensor:
        return (self.paid + 1) / (self.count + 2)


class GaussianCounts(ArmCounts):
    """m ~ U[0, 1], rewards N(m, d^2): the mean of N(mean of the rewards, d^2 / n) cut to [0, 1]."""

    def __init__(self, env: GaussianBandit) -> None:
        super().__init__(env)
        self.deviation = env.deviation

    def means(self) -> Tensor:
        count = self.count.double().clamp(min=1)
        mean, spread = self.paid / count, self.deviation / count.sqrt()
        low, high = -mean / spread, (1 - mean) / spread
        inside = (torch.special.ndtr(high) - torch.special.ndtr(low)).clamp(min=RAN_OUT)
        density = (torch.exp(-(low**2) / 2) - torch.exp(-(high**2) / 2)) / (2 * torch.pi) ** 0.5
        cut = (mean + spread * density / inside).clamp(0, 1)
        return torch.where(self.count > 0, cut, 0.5).float()


class DependentCounts(ArmCounts):
    """p_2 = 1 - p_1: a success of one arm and a failure of the other speak for the same. Uniform: Beta; else two values
    p and 1 - p, whose odds are (p / (1 - p)) ^ (for the first - for the second).
    """

    def __init__(self, env: DependentBandit) -> None:
        super().__init__(env)
        self.better = env.BETTER.get(env.kind)

    def means(self) -> Tensor:
        speaks = self.paid + (self.count - self.paid).flip(1)
        if self.better is None:
            return (speaks + 1) / (speaks.sum(1, keepdim=True) + 2)
        odds = torch.logit(torch.tensor(self.better))
        first = torch.sigmoid(odds * (speaks[:, 0] - speaks[:, 1]))
        mean = first * self.better + (1 - first) * (1 - self.better)
        return torch.stack([mean, 1 - mean], 1)


class InformativeArms(Knowledge):
    """Which of ten arms may still be the one that pays 5; arm 11 and the pull of 5 tell it."""

    def __init__(self, env: InformativeBandit) -> None:
        self.pulls, self.tells = env.spec.episode_steps, env.informative_action

    def begin(self, rows: int, device: torch.device) -> None:
        self.possible = torch.ones(rows, self.tells, dtype=torch.bool, device=device)

    def learn(self, moment: Moment) -> None:
        arm, reward = moment.choice.actions, moment.step.reward
        numbers = torch.arange(self.tells, device=arm.device)
        told = torch.where(arm == self.tells, (reward * 10).round().long() - 1, torch.where(reward > 2, arm, -1))
        is_told = numbers == told[:, None]
        left = torch.where((told >= 0)[:, None], is_told, self.possible & (numbers != arm[:, None]))
        self.possible = torch.where(moment.acting[:, None], left, self.possible)

    def values(self) -> Tensor:
        return self.pulls * (1 + 4 / self.possible.sum(1).float())


class HallwaySide(Knowledge):
    """Whether the side of the goal is known: by the sign, by the goal, or by an end without it."""

    def __init__(self, env: Hallway) -> None:
        self.known_value, self.unknown_value = 1 - env.half * env.cost, hallway_bayes(env, episodes=1)

    def begin(self, rows: int, device: torch.device) -> None:
        self.known = torch.zeros(rows, dtype=torch.bool, device=device)

    def learn(self, moment: Moment) -> None:
        place, sign = moment.step.observation[:, 0], moment.step.observation[:, 2]
        self.known = self.known | (moment.acting & ((place.abs() == 1) | (sign != 0)))

    def values(self) -> Tensor:
        return torch.where(self.known, self.known_value, self.unknown_value)


class BusTable(Knowledge):
    """Which bus goes to which stop, as far as rides, or a look at the map, have told: (B, 4) stops, -1 not known. J is
    the mean over the corners, for whoever may still find out the rest while being paid.
    """

    def __init__(self, env: BusGrid) -> None:
        self.orders, table = torch.tensor(known_orders()), ride_values(env)
        self.worth = table.mean(0).float()
        self.shows_map = env.shows_map
        kind = torch.full((SIZE * SIZE,), -1)
        self.bus_at, self.stop_at = kind.clone(), kind.clone()
        for number in range(len(BUSES)):
            self.bus_at[BUSES[number][0] * SIZE + BUSES[number][1]] = number
            self.stop_at[STOPS[number][0] * SIZE + STOPS[number][1]] = number
        self.plans = torch.tensor(ORDERS)

    def begin(self, rows: int, device: torch.device) -> None:
        for name in ("orders", "worth", "bus_at", "stop_at", "plans"):
            setattr(self, name, getattr(self, name).to(device))
        self.known = torch.full((rows, len(BUSES)), -1, device=device)

    def learn(self, moment: Moment) -> None:
        view = moment.step.observation
        before, after = cell_of(moment.seen["observation"]).to(view.device), cell_of(view)
        bus = torch.maximum(self.bus_at[before], self.bus_at[after])
        stop = torch.maximum(self.stop_at[before], self.stop_at[after])
        rode = moment.acting & (moment.choice.actions == RIDE) & (before != after)
        here = rode[:, None] & (torch.arange(len(BUSES), device=view.device) == bus[:, None])
        self.known = torch.where(here, stop[:, None], self.known)
        if self.shows_map:
            looked = moment.acting & (after == MAP[0] * SIZE + MAP[1])
            plan = self.plans[view[:, -len(ORDERS) :].argmax(1)]
            self.known = torch.where(looked[:, None], plan, self.known)
        missing = (self.known < 0).sum(1) == 1  # the last bus goes where no other goes
        last = self.plans.new_tensor(6) - self.known.clamp(min=0).sum(1)
        self.known = torch.where(missing[:, None] & (self.known < 0), last[:, None], self.known)

    def values(self) -> Tensor:
        which = (self.known[:, None] == self.orders).all(2).long().argmax(1)
        return self.worth[which]


def cell_of(view: Tensor) -> Tensor:
    """(B,) the cell of the bus grid that observations (B, D) show."""
    return view[:, :SIZE].argmax(1) * SIZE + view[:, SIZE : 2 * SIZE].argmax(1)


knowledge_of.register(BernoulliBandit, BernoulliCounts)
knowledge_of.register(GaussianBandit, GaussianCounts)
knowledge_of.register(DependentBandit, DependentCounts)
knowledge_of.register(InformativeBandit, InformativeArms)
knowledge_of.register(Hallway, HallwaySide)
knowledge_of.register(BusGrid, BusTable)
