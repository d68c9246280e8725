"""Tabular MDPs: the known-MDP optimum by value iteration, and the classical learners that plan from their data.

All plan once an episode, for the H steps that it has. The Bayesian ones hold the true prior of `TabularMDP`:
transitions Dirichlet(1, ..., 1), mean rewards N(prior_mean, 1), reward noise N(0, 1). The true `prior_mean` is 1. The
baselines of Duan et al. 2016 come out with 0, the default of TabulaRL that they ran, which explores less: PSRL over ten
episodes is worth 133.9 with the true prior and 137.7 with that one (their table: 138.1).

S states, A actions, H steps of an episode, B tasks.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrt.control.agent import ScriptedAgent, Seen, fresh
from mrt.control.envs.base import Spec

State = dict[str, Any]


def value_iteration(rewards: Tensor, transitions: Tensor, horizon: int) -> Tensor:
    """Q*[t, s, a] = R(s, a) + sum_s' P(s'|s, a) max_a' Q*[t+1, s', a'], backwards from Q*[H] = 0.

    Args:
        rewards: (B, S, A). transitions: (B, S, A, S).

    Returns:
        (B, H, S, A) expected return of the rest of the episode.
    """
    return _backwards(rewards, transitions, horizon, greedy=True)


def random_values(rewards: Tensor, transitions: Tensor, horizon: int) -> Tensor:
    """(B, H, S, A) as `value_iteration`, for the policy that draws every action uniformly."""
    return _backwards(rewards, transitions, horizon, greedy=False)


def _backwards(rewards: Tensor, transitions: Tensor, horizon: int, greedy: bool) -> Tensor:
    rows, states, actions = rewards.shape
    flat = transitions.reshape(rows, states * actions, states)
    values, layers = rewards.new_zeros(rows, states), []
    for _ in range(horizon):
        q = rewards + torch.bmm(flat, values[:, :, None]).view_as(rewards)
        layers.append(q)
        values = q.amax(2) if greedy else q.mean(2)
    return torch.stack(layers[::-1], 1)


class MDPPolicy(ScriptedAgent):
    """Plans at the start of each episode and acts greedily on the plan; counts what it sees.

    Its memory: `visits` (B, S, A, S), transitions; `pulls`, `paid` (B, S, A), rewards seen, and their sum; the plan `q`
    (B, H, S, A) and the `time` of the episode. The state is read from the one-hot observation of `TabularMDP`, whose
    episodes are of fixed length, so that all rows plan together.
    """

    def __init__(self, spec: Spec, prior_mean: float = 1.0, seed: int = 0) -> None:
        self.spec, self.prior_mean, self.rng = spec, prior_mean, np.random.default_rng(seed)

    def start(self, rows: int) -> State:
        states, actions = self.spec.observation, self.spec.actions
        pulls = torch.zeros(rows, states, actions)
        state: State = {"visits": torch.zeros(rows, states, actions, states), "pulls": pulls, "paid": pulls}
        return {**state, "time": 0, "q": self.plan(state)}

    @abstractmethod
    def plan(self, state: State) -> Tensor:
        """(B, H, S, A) the values to act on in this episode."""

    def choose(self, observation: Tensor, state: State) -> Tensor:
        place = observation.argmax(1)
        return state["q"][torch.arange(len(place)), min(state["time"], self.spec.episode_steps - 1), place].argmax(1)

    def learn(self, seen: Seen, state: State) -> State:
        if bool(fresh(seen).any()):  # the next episode has begun
            return {**state, "time": 0, "q": self.plan(state)}
        rows, taken = torch.arange(len(seen["action"])), seen["action"]
        place, reached = seen["last"].argmax(1), seen["observation"].argmax(1)
        one = torch.ones(len(rows))
        return {
            **state,
            "time": state["time"] + 1,
            "visits": state["visits"].index_put((rows, place, taken, reached), one, accumulate=True),
            "pulls": state["pulls"].index_put((rows, place, taken), one, accumulate=True),
            "paid": state["paid"].index_put((rows, place, taken), seen["reward"], accumulate=True),
        }

    def mean_rewards(self, state: State) -> Tensor:
        """(B, S, A) posterior mean: prior N(m, 1) and n rewards of variance 1 give (m + sum r) / (1 + n)."""
        return (self.prior_mean + state["paid"]) / (1 + state["pulls"])


class KnownMDP(MDPPolicy):
    """The optimum of an agent that knows the task: `params` as the environment's."""

    def __init__(self, spec: Spec, params: Mapping[str, Tensor]) -> None:
        super().__init__(spec)
        self.params = {name: value.cpu() for name, value in params.items()}  # where all that is counted is

    def plan(self, state: State) -> Tensor:
        return value_iteration(self.params["rewards"], self.params["transitions"], self.spec.episode_steps)


class PosteriorMean(MDPPolicy):
    """Greedy: plans in the posterior mean MDP. It never explores on purpose."""

    def plan(self, state: State) -> Tensor:
        counts = 1 + state["visits"]
        return value_iteration(self.mean_rewards(state), counts / counts.sum(3, keepdim=True), self.spec.episode_steps)


class PSRL(MDPPolicy):
    """Posterior sampling (Strens 2000; Osband, Russo and Van Roy 2013, arXiv 1306.0940): plans in one sampled MDP.

    With `samples` > 1 it is OPSRL, optimistic PSRL as in Osband's TabulaRL, which Duan et al. 2016 compare with: the
    pointwise maximum of the Q of that many samples. (They choose 1..20 by the test score.)
    """

    def __init__(self, spec: Spec, samples: int = 1, prior_mean: float = 1.0, seed: int = 0) -> None:
        super().__init__(spec, prior_mean, seed)
        self.samples = samples

    def plan(self, state: State) -> Tensor:
        q = self._sampled(state)
        for _ in range(self.samples - 1):
            q = torch.maximum(q, self._sampled(state))
        return q

    def _sampled(self, state: State) -> Tensor:
        counts = (1 + state["visits"]).numpy()
        gamma = torch.from_numpy(self.rng.standard_gamma(counts, dtype=np.float32)).clamp(min=1e-30)
        noise = torch.from_numpy(self.rng.standard_normal(tuple(state["pulls"].shape), dtype=np.float32))
        rewards = self.mean_rewards(state) + noise / (1 + state["pulls"]).sqrt()
        return value_iteration(rewards, gamma / gamma.sum(3, keepdim=True), self.spec.episode_steps)


class UCRL2(MDPPolicy):
    """Optimism in the face of uncertainty (Jaksch, Ortner and Auer 2010), finite-horizon form of Osband's TabulaRL.

    Empirical model, widths `scaling` sqrt(4 log(2 S A (t + 1) / delta) / max(n, 1)) on rewards and sqrt(S) times that
    on transitions (L1), t steps so far; extended value iteration puts the best model within them. A pair never tried
    has reward `prior_mean` and uniform transitions. With scaling 1, as in the proof, ten episodes are worth 117 (random
    100, scaling 0.1 147); Duan et al. 2016 choose it on a log grid of 1e-4..1 by the test score (146.6).
    """

    def __init__(self, spec: Spec, scaling: float = 0.1, delta: float = 0.05, prior_mean: float = 1.0) -> None:
        super().__init__(spec, prior_mean)
        self.scaling, self.delta = scaling, delta

    def plan(self, state: State) -> Tensor:
        states, actions = self.spec.observation, self.spec.actions
        tried = state["pulls"].clamp(min=1)
        steps = float(state["pulls"][0].sum())
        width = self.scaling * (4 * math.log(2 * states * actions * (steps + 1) / self.delta) / tried).sqrt()
        rewards = torch.where(state["pulls"] > 0, state["paid"] / tried, self.prior_mean) + width
        transitions = torch.where(state["pulls"][..., None] > 0, state["visits"] / tried[..., None], 1 / states)
        half = 0.5 * states**0.5 * width
        values, layers = rewards.new_zeros(len(rewards), states), []
        for _ in range(self.spec.episode_steps):
            order = values.argsort(1, descending=True)
            sorted_values = values.gather(1, order)
            chances = transitions.gather(3, order[:, None, None].expand_as(transitions)).clone()
            chances[..., 0] = (chances[..., 0] + half).clamp(max=1)
            # Mass that the best state gained is taken from the worst ones: sums from the best on stop at 1.
            reached = chances.cumsum(3).clamp(max=1).diff(dim=3, prepend=torch.zeros_like(chances[..., :1]))
            q = rewards + (reached * sorted_values[:, None, None]).sum(3)
            layers.append(q)
            values = q.amax(2)
        return torch.stack(layers[::-1], 1)
