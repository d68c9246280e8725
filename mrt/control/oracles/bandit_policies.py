"""Classical bandit algorithms and the Bayes-optimal ones of the structured bandits, as agents over B trials.

Ties go to the arm of smallest number, as in the code of Duan et al. 2016 (greedy play depends on it: at n = 10, k = 5
it is worth 6.569 with this rule and 6.626 with random ties).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrt.control.agent import Agent, ScriptedAgent, Seen, fresh
from mrt.control.envs.bandits import HALF_STEP, Bandit
from mrt.control.envs.base import TensorEnv
from mrt.control.interaction import play
from mrt.control.oracles.bandits import gittins_table


def regret(env: Bandit, agent: Agent, params: Mapping[str, Tensor], seed: int = 0) -> Tensor:
    """(B,) regret of a trial: sum over pulls of the best arm's mean minus the pulled arm's (of the moment, where they
    change). Means in place of rewards take most of the noise out.
    """
    return play(env, agent, params, seed, score=_shortfall).sum(1)


def _shortfall(env: TensorEnv, actions: Tensor) -> Tensor:
    assert isinstance(env, Bandit)
    means = env.arm_means()
    return means.amax(1) - means.gather(1, actions[:, None])[:, 0]


State = dict[str, Any]


class BanditPolicy(ScriptedAgent):
    """Pulls an arm of largest `scores`. Its memory: `count` and `paid` (B, k), pulls and sum of rewards, `time` pulls
    so far.
    """

    def __init__(self, arms: int, seed: int = 0) -> None:
        self.arms, self.rng = arms, np.random.default_rng(seed)

    def start(self, rows: int) -> State:
        return {"count": torch.zeros(rows, self.arms), "paid": torch.zeros(rows, self.arms), "time": 0}

    @abstractmethod
    def scores(self, state: State) -> Tensor:
        """(B, k) what each arm promises."""

    def choose(self, observation: Tensor, state: State) -> Tensor:
        return self.scores(state).argmax(1)

    def learn(self, seen: Seen, state: State) -> State:
        pulled = ~fresh(seen)[:, None]  # the first step of an episode brings nothing
        arm = seen["action"][:, None].clamp(min=0)
        count = state["count"].scatter_add(1, arm, pulled.float())
        paid = state["paid"].scatter_add(1, arm, seen["reward"][:, None] * pulled)
        return {**state, "count": count, "paid": paid, "time": state["time"] + int(pulled.any())}


def posterior_mean(state: State) -> Tensor:
    """(B, k) (s + 1) / (n + 2): Bernoulli arms, uniform prior."""
    return (state["paid"] + 1) / (state["count"] + 2)


class Greedy(BanditPolicy):
    """The arm of largest posterior mean."""

    def scores(self, state: State) -> Tensor:
        return posterior_mean(state)


class EpsilonGreedy(BanditPolicy):
    """Greedy, but with probability `epsilon` any arm."""

    def __init__(self, arms: int, epsilon: float = 0.1, seed: int = 0) -> None:
        super().__init__(arms, seed)
        self.epsilon = epsilon

    def scores(self, state: State) -> Tensor:
        random = torch.from_numpy(self.rng.random(state["count"].shape))
        explore = torch.from_numpy(self.rng.random((len(state["count"]), 1))) < self.epsilon
        return torch.where(explore, random, posterior_mean(state))


class UCB1(BanditPolicy):
    """m + c sqrt(2 log t / N), with one success and one failure given to each arm: m = (s+1)/(n+2), N = n + 2.

    The form of Duan et al. 2016, who choose c from 0, 0.1, ..., 1 by the test score: 0.1 is best at n = 10 (0.2 loses
    0.02), 0.2 at n = 100, whether k is 5, 10 or 50. Auer, Cesa-Bianchi and Fischer 2002 have c = 1 and no such counts.
    """

    def __init__(self, arms: int, c: float = 0.2, seed: int = 0) -> None:
        super().__init__(arms, seed)
        self.c = c

    def scores(self, state: State) -> Tensor:
        return posterior_mean(state) + self.c * (2 * np.log(max(state["time"], 1)) / (state["count"] + 2)).sqrt()


class Thompson(BanditPolicy):
    """Thompson sampling (1933): one draw from each Beta posterior.

    `optimistic` scores by max(draw, posterior mean): optimistic Bayesian sampling (May et al. 2012, JMLR 13). What Duan
    et al. 2016 call OTS takes the most probable of several joint draws; that is another policy.
    """

    def __init__(self, arms: int, optimistic: bool = False, seed: int = 0) -> None:
        super().__init__(arms, seed)
        self.optimistic = optimistic

    def scores(self, state: State) -> Tensor:
        won, lost = state["paid"] + 1, state["count"] - state["paid"] + 1
        drawn = torch.from_numpy(self.rng.beta(won.numpy(), lost.numpy()))
        return torch.maximum(drawn, posterior_mean(state).double()) if self.optimistic else drawn


class Gittins(BanditPolicy):
    """The arm of largest finite-horizon Gittins index, for trials of `horizon` pulls."""

    def __init__(self, arms: int, horizon: int) -> None:
        super().__init__(arms)
        self.table = torch.from_numpy(gittins_table(horizon))

    def scores(self, state: State) -> Tensor:
        wins = state["paid"].long()
        return self.table[self.table.shape[0] - 1 - state["time"]][wins, state["count"].long() - wins]


class GaussianThompson(BanditPolicy):
    """Thompson sampling for `GaussianBandit`: each posterior is N(mean of the rewards, deviation^2 / n) cut to [0, 1].

    `exact=False` uses the normal prior N(1/2, 1/12) instead of the true one, U[0, 1], as Lee et al. 2023 do.
    """

    def __init__(self, arms: int, deviation: float = 0.3, exact: bool = True, seed: int = 0) -> None:
        super().__init__(arms, seed)
        self.deviation, self.exact = deviation, exact

    def scores(self, state: State) -> Tensor:
        u = torch.from_numpy(self.rng.random(state["count"].shape))
        count = state["count"].double()
        if not self.exact:
            precision = 12 + count / self.deviation**2
            mean = (6 + state["paid"] / self.deviation**2) / precision
            return mean + torch.special.ndtri(u.clamp(min=HALF_STEP)) / precision.sqrt()
        mean, spread = state["paid"] / count.clamp(min=1), self.deviation / count.clamp(min=1).sqrt()
        low, high = torch.special.ndtr(-mean / spread), torch.special.ndtr((1 - mean) / spread)
        inside = (low + u * (high - low)).clamp(1e-15, 1 - 1e-15)
        return torch.where(count > 0, (mean + spread * torch.special.ndtri(inside)).clamp(0, 1), u)


class GaussianUCB(BanditPolicy):
    """Mean of the rewards + c / sqrt(n), each arm once first (Lee et al. 2023); c = 0 follows the empirical mean."""

    def __init__(self, arms: int, c: float = 0.5, seed: int = 0) -> None:
        super().__init__(arms, seed)
        self.c = c

    def scores(self, state: State) -> Tensor:
        bound = state["paid"] / state["count"].clamp(min=1) + self.c / state["count"].clamp(min=1).sqrt()
        return torch.where(state["count"] > 0, bound, torch.inf)


class DependentBayes(BanditPolicy):
    """Bayes-optimal on every `DependentBandit`: the arm that more pulls speak for. A failure speaks for the other."""

    def __init__(self) -> None:
        super().__init__(2)

    def scores(self, state: State) -> Tensor:
        return state["paid"] + (state["count"] - state["paid"]).flip(1)


class InformativeBayes(BanditPolicy):
    """Bayes-optimal on `InformativeBandit`: asks arm 11, then pulls the arm that it named."""

    def __init__(self) -> None:
        super().__init__(11)

    def scores(self, state: State) -> Tensor:
        target = torch.where(state["count"][:, 10] > 0, (10 * state["paid"][:, 10]).round() - 1, 10.0)
        return (torch.arange(11) == target[:, None]).float()


class RestlessBayes(BanditPolicy):
    """Bayes-optimal on `RestlessBandit`, up to its grid: filters p_1 and the volatility, pulls the arm likelier to pay.

    Either arm's reward tells the same of p_1, which wanders whatever is done, so looking ahead cannot help.
    `belief` (B, V, G): volatilities x cells of [0, 1].
    """

    def __init__(self, volatility: tuple[float, ...] = (0.02, 0.1), cells: int = 50) -> None:
        super().__init__(2)
        edges = torch.linspace(0, 1, cells + 1, dtype=torch.float64)
        self.centres = ((edges[1:] + edges[:-1]) / 2).float()
        self.moves = torch.stack([_reflected_walk(edges, deviation) for deviation in volatility])  # (V, G, G)

    def start(self, rows: int) -> State:
        return {"belief": torch.full((rows, *self.moves.shape[:2]), 1 / self.moves[:, 0].numel())}

    def scores(self, state: State) -> Tensor:
        mean = (state["belief"].sum(1) * self.centres).sum(1)
        return torch.stack([mean, 1 - mean], 1)

    def learn(self, seen: Seen, state: State) -> State:
        speaks_for_first = (seen["reward"] > 0.5) == (seen["action"] == 0)
        chance = torch.where(speaks_for_first[:, None], self.centres, 1 - self.centres)
        belief = torch.einsum("bvg,vgh->bvh", state["belief"] * chance[:, None], self.moves)
        return {**state, "belief": belief / belief.sum((1, 2), keepdim=True)}

    def extras(self, state: State) -> Mapping[str, Tensor]:
        return {"belief": state["belief"]}


def _reflected_walk(edges: Tensor, deviation: float, images: int = 3) -> Tensor:
    """(G, G) chance to go from the centre of one cell to another cell, mirror images of the target added up."""
    centres = (edges[1:] + edges[:-1]) / 2
    total = torch.zeros(len(centres), len(centres), dtype=torch.float64)
    for image in range(-images, images + 1):
        for low, high in (
            (2 * image + edges[:-1], 2 * image + edges[1:]),
            (2 * image - edges[1:], 2 * image - edges[:-1]),
        ):
            below, above = ((edge[None, :] - centres[:, None]) / deviation for edge in (low, high))
            total += torch.special.ndtr(above) - torch.special.ndtr(below)
    return (total / total.sum(1, keepdim=True)).float()


class TwoStepBayes(ScriptedAgent):
    """Bayes-optimal on `TwoStep`: aims at the second-stage state that more rewards speak for."""

    def start(self, rows: int) -> State:
        return {"evidence": torch.zeros(rows)}  # for state 0

    def learn(self, seen: Seen, state: State) -> State:
        stage = seen["last"].argmax(1)
        signed = torch.where((seen["reward"] > 0.5) == (stage == 1), 1.0, -1.0)
        return {**state, "evidence": state["evidence"] + torch.where(stage > 0, signed, 0.0)}

    def choose(self, observation: Tensor, state: State) -> Tensor:
        return (state["evidence"] < 0).long()
