"""Bandits on tensors. A trial is one episode of n pulls, or several: with `pulls: 1` every pull is an episode, after
which the value of stopping can be measured (`mrt.control.probes`). Action i pulls arm i.

A policy sees a constant (width 1) beside its previous action and reward, which the rollout adds: all there is to know
of an arm comes through its rewards. The informative-arm bandit can show the last reward as a one-hot vector instead,
and moving bandits are a small navigation task whose arms are two places.

Sources: Wang et al. 2016, arXiv 1611.05763, section 3.1; Duan et al. 2016, arXiv 1611.02779, section 3.1; Lee et al.
2023, arXiv 2306.14892, section 5; Frans et al. 2017, arXiv 1710.09767, section 6.2.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mrt.control.envs.base import Spec, TensorEnv
from mrt.errors import ConfigError, nearest

State = dict[str, Tensor]
HALF_STEP = 2.0**-25  # half the distance of two 24-bit uniform numbers


def normal(u: Tensor) -> Tensor:
    """Standard normal numbers by the inverse CDF of uniform ones in [0, 1), each moved to the middle of its cell."""
    return torch.special.ndtri((u.double() + HALF_STEP).clamp(max=1 - HALF_STEP)).float()


class Bandit(TensorEnv):
    """What bandits share: Bernoulli rewards of `arm_means` and nothing to see. No state beside the task."""

    step_draws = 1

    def __init__(
        self, arms: int, pulls: int, observation: int = 1, device: str | torch.device = "cpu", episodes: int = 1
    ) -> None:
        super().__init__(Spec(observation, episode_steps=pulls, episodes=episodes, actions=arms), device)

    def arm_means(self) -> Tensor:
        """(B, arms) expected reward of each arm now. For oracles and regret, never for a policy."""
        return self.params["means"]

    def begin_episode(self, u: Tensor) -> State:
        return {}

    def move(self, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        mean = self.arm_means().gather(1, actions[:, None])[:, 0]
        return {}, (u[:, 0] < mean).float(), torch.zeros_like(self.waiting)

    def observe(self) -> Tensor:
        return torch.ones(len(self.clock), 1, device=self.device)


class BernoulliBandit(Bandit):
    """k arms that pay 1 with probability p_i ~ U[0, 1], else 0 (Duan et al. 2016: k = 5, 10, 50; n = 10, 100, 500).

    Random n/2, best arm known n k/(k+1) on average.
    """

    name = "bernoulli-bandit"

    def __init__(self, arms: int = 5, pulls: int = 10, device: str | torch.device = "cpu", episodes: int = 1) -> None:
        super().__init__(arms, pulls, device=device, episodes=episodes)
        self.task_draws = arms

    def task_params(self, u: Tensor) -> State:
        return {"means": u}

    def task_ranges(self) -> dict[str, tuple[float, float]]:
        return {"means": (0.0, 1.0)}


class GaussianBandit(Bandit):
    """k arms that pay N(m_i, deviation^2), m_i ~ U[0, 1] (Lee et al. 2023: k = 5, n = 500).

    The paper writes variance 0.3; the released code, and so every published number, passes 0.3 as the standard
    deviation, which is the default here.
    """

    name = "gaussian-bandit"

    def __init__(
        self,
        arms: int = 5,
        pulls: int = 500,
        deviation: float = 0.3,
        *,
        device: str | torch.device = "cpu",
        episodes: int = 1,
    ) -> None:
        super().__init__(arms, pulls, device=device, episodes=episodes)
        self.task_draws, self.deviation = arms, deviation

    def task_params(self, u: Tensor) -> State:
        return {"means": u}

    def task_ranges(self) -> dict[str, tuple[float, float]]:
        return {"means": (0.0, 1.0)}

    def move(self, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        mean = self.arm_means().gather(1, actions[:, None])[:, 0]
        return {}, mean + self.deviation * normal(u[:, 0]), torch.zeros_like(self.waiting)


class DependentBandit(Bandit):
    """Two Bernoulli arms with p_2 = 1 - p_1, so that each pull tells as much of the other arm (Wang et al. 2016).

    p_1 ~ U[0, 1] ("uniform"), or one of two values with equal chance: {0.1, 0.9} "easy", {0.25, 0.75} "medium",
    {0.4, 0.6} "hard".

    Raises:
        ConfigError: for another kind.
    """

    name = "dependent-bandit"
    BETTER: ClassVar[dict[str, float]] = {"easy": 0.9, "medium": 0.75, "hard": 0.6}

    def __init__(
        self, kind: str = "uniform", pulls: int = 100, device: str | torch.device = "cpu", episodes: int = 1
    ) -> None:
        if kind != "uniform" and kind not in self.BETTER:
            raise ConfigError(f"kind={kind!r} is not a dependent bandit; {nearest(kind, ['uniform', *self.BETTER])}")
        super().__init__(2, pulls, device=device, episodes=episodes)
        self.kind = kind

    def task_params(self, u: Tensor) -> State:
        if self.kind == "uniform":
            return {"means": torch.stack([u[:, 0], 1 - u[:, 0]], 1)}
        better, worse = self.BETTER[self.kind], 1 - self.BETTER[self.kind]
        both = torch.tensor([[better, worse], [worse, better]], device=u.device)
        return {"means": both[(u[:, 0] >= 0.5).long()]}


class RestlessBandit(Bandit):
    """Two Bernoulli arms with p_2 = 1 - p_1 and a p_1 that wanders within the trial (Wang et al. 2016).

    p_1 begins uniform on [0, 1] and takes a Gaussian step after each pull, reflected at 0 and 1. Half the tasks are of
    low, half of high volatility, which a good learner has to find out. The paper gives no numbers; the standard
    deviations of a step are a choice made here.
    """

    name = "restless-bandit"
    task_draws = 2
    step_draws = 2

    def __init__(
        self, pulls: int = 100, volatility: tuple[float, float] = (0.02, 0.1), device: str | torch.device = "cpu"
    ) -> None:
        super().__init__(2, pulls, device=device)
        self.volatility = volatility

    def task_params(self, u: Tensor) -> State:
        low, high = self.volatility
        return {"start": u[:, 0], "volatility": torch.where(u[:, 1] < 0.5, low, high)}

    def task_ranges(self) -> dict[str, tuple[float, float]]:
        return {"start": (0.0, 1.0)}

    def arm_means(self) -> Tensor:
        return torch.stack([self.state["p"], 1 - self.state["p"]], 1)

    def begin_episode(self, u: Tensor) -> State:
        return {"p": self.params["start"]}

    def move(self, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        _, reward, terminated = super().move(actions, u)
        return {"p": reflect(self.state["p"] + self.params["volatility"] * normal(u[:, 1]))}, reward, terminated


def reflect(x: Tensor) -> Tensor:
    """x folded into [0, 1] at both ends, as often as it takes."""
    return 1 - (1 - x.remainder(2)).abs()


class InformativeBandit(Bandit):
    """Eleven arms, five pulls: one of the first ten pays 5, the other nine 1, and arm 11 pays (target number) / 10,
    which tells where the 5 is (Wang et al. 2016, section 3.1.3). Rewards are certain.

    `one_hot` shows the last reward as a one-hot vector of width 11 (0.1, 0.2, ..., 1.0, 5.0; zeros before the first
    pull), as in the paper: with the plain number alone learners settle on never asking arm 11, which is worth 11.00
    against 20.55.
    """

    name = "informative-bandit"
    informative_action = 10

    def __init__(
        self, pulls: int = 5, one_hot: bool = True, device: str | torch.device = "cpu", episodes: int = 1
    ) -> None:
        super().__init__(11, pulls, observation=11 if one_hot else 1, device=device, episodes=episodes)
        self.one_hot = one_hot

    def task_params(self, u: Tensor) -> State:
        return {"target": (u[:, 0] * 10).long().clamp(max=9)}

    def arm_means(self) -> Tensor:
        target = self.params["target"][:, None]
        means = torch.ones(len(target), 11, device=self.device).scatter(1, target, 5.0)
        means[:, 10:] = (target + 1) / 10
        return means

    def begin_episode(self, u: Tensor) -> State:
        return {"seen": torch.full_like(self.clock, -1)}

    def move(self, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        reward = self.arm_means().gather(1, actions[:, None])[:, 0]
        seen = torch.where(reward > 2, 10, (reward * 10).round().long() - 1)
        return {"seen": seen}, reward, torch.zeros_like(self.waiting)

    def observe(self) -> Tensor:
        if not self.one_hot:
            return super().observe()
        return (self.state["seen"][:, None] == torch.arange(11, device=self.device)).float()


class MovingBandits(Bandit):
    """A point that walks in steps of 20, and two places drawn from [0, 400]^2 at the start of every episode; one of
    the two, the same in all episodes of a task, pays 1 for each step that ends less than 50 away from it (Frans et al.
    2017, released code: start at (200, 200), 50 steps, no walls).

    Actions: stay, +x, -x, +y, -y. Observation (6): position and both places, each divided by 400.
    """

    name = "moving-bandits"
    start_draws = 4
    step_draws = 0
    SIDE, STEP, RADIUS = 400.0, 20.0, 50.0
    MOVES = ((0.0, 0.0), (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))

    def __init__(self, episode_steps: int = 50, episodes: int = 2, device: str | torch.device = "cpu") -> None:
        super().__init__(5, episode_steps, observation=6, device=device, episodes=episodes)

    def task_params(self, u: Tensor) -> State:
        return {"right": (u[:, 0] >= 0.5).long()}

    def begin_episode(self, u: Tensor) -> State:
        middle = torch.full((len(u), 2), self.SIDE / 2, device=self.device)
        return {"position": middle, "places": u.view(-1, 2, 2) * self.SIDE}

    def move(self, actions: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor]:
        position = self.state["position"] + self.STEP * torch.tensor(self.MOVES, device=self.device)[actions]
        places = self.state["places"]
        goal = places[torch.arange(len(places), device=self.device), self.params["right"]]
        near = (position - goal).square().sum(1) < self.RADIUS**2
        return {"position": position, "places": places}, near.float(), torch.zeros_like(self.waiting)

    def observe(self) -> Tensor:
        return torch.cat([self.state["position"], self.state["places"].flatten(1)], 1) / self.SIDE
