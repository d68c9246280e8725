"""A learned value of stopping: J from the policy's hidden state at the forced close, and what a few answers add."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mrt.errors import ConfigError
from mrt.reasoning.engines.base import Engine
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.probes.base import Judge, Probed, Trace
from mrt.reasoning.probes.forced import Sampled, force_answers, judge_answers, probed
from mrt.reasoning.traces.prompts import ThinkFormat

WIDTH = 256  # features at most; wider states are projected


@dataclass
class StopValueHead:
    """Ridge regression of rewards on hidden states, from the sums of all updates so far, older ones weighing less.

    `strength` is how many answers its guess is worth: v / tau^2 - 1, v the mean f (1 - f) and tau^2 the mean squared
    error of its guesses beyond the binomial noise of the answers they were held against, both before it had seen them.
    """

    forget: float = 0.98
    ridge: float = 1.0
    square: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    moment: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    error: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    def guess(self, states: Tensor) -> Tensor | None:
        """(n,) guesses of J for hidden states (n, width), within [0.01, 0.99]; None before the first update."""
        if not len(self.moment):
            return None
        eye = torch.eye(len(self.moment), dtype=torch.float64)
        return (features(states) @ torch.linalg.solve(self.square + self.ridge * eye, self.moment)).clamp(0.01, 0.99)

    @property
    def strength(self) -> float:
        """How many answers a guess is worth, at most 64; 0 before it was ever tried."""
        count, wrong, spread = self.error.tolist()
        if not count:
            return 0.0
        return min(64.0, max(0.0, spread / max(wrong, count * 1e-6) - 1))

    def update(self, states: Tensor, means: Tensor, counts: Tensor) -> None:
        """Learns from mean rewards (n,) over `counts` answers (n,) at hidden states (n, width)."""
        guess, seen = self.guess(states), features(states)
        if guess is not None:
            sure = counts > 1
            noise = means * (1 - means) / (counts - 1).clamp(min=1)
            wrong = ((guess - means) ** 2 - noise)[sure].sum().clamp(min=0)
            fresh = torch.stack([sure.double().sum(), wrong, (guess * (1 - guess))[sure].sum()])
            self.error = self.forget * self.error + fresh
        else:
            self.square = torch.zeros(seen.shape[1], seen.shape[1], dtype=torch.float64)
            self.moment = torch.zeros(seen.shape[1], dtype=torch.float64)
        weighed = seen * counts[:, None]
        self.square = self.forget * self.square + weighed.T @ seen
        self.moment = self.forget * self.moment + weighed.T @ means

    def state_dict(self) -> dict[str, Any]:
        """The sums."""
        return {"square": self.square, "moment": self.moment, "error": self.error}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.square, self.moment, self.error = (state[name] for name in ("square", "moment", "error"))


def features(states: Tensor) -> Tensor:
    """(n, at most 257) float64: hidden states of unit mean square, projected at random where they are wide, and 1."""
    states = states.double().cpu()
    states = states / states.square().mean(1, keepdim=True).sqrt().clamp(min=1e-9)
    if states.shape[1] > WIDTH:
        generator = torch.Generator().manual_seed(0)
        random = torch.randn(states.shape[1], WIDTH, generator=generator, dtype=torch.float64)
        states = states @ random / math.sqrt(states.shape[1])
    return torch.cat([states, torch.ones(len(states), 1, dtype=torch.float64)], 1)


@dataclass(frozen=True)
class Learned:
    """The posterior mean of J under a Beta prior at the head's guess f: (n mean + m f) / (n + m), m the head's
    `strength`. The head has learned from past batches alone; the hidden states cost no position.

    Biased towards f, with less variance; where f is wrong, m is small. With `alone` it is f itself, and the answers
    (which the head needs) are not counted: no noise, and all the bias. Rewards lie in [0, 1].

    Raises:
        ConfigError: for a reward outside [0, 1], and for an engine that gives no hidden states.
    """

    samples: int = 4
    sampling: Sampling = Sampling()  # noqa: RUF009  (frozen)
    coupled: bool = True
    alone: bool = False
    head: StopValueHead = field(default_factory=StopValueHead, compare=False)
    prover: str = field(default="forced", init=False)

    def __call__(self, engine: Engine, fmt: ThinkFormat, traces: Sequence[Trace], judge: Judge) -> list[Probed]:
        traces = [replace(trace, shared=()) for trace in traces]
        forced = force_answers(engine, fmt, traces, self.samples, self.sampling, coupled=self.coupled, states=True)
        rewards = judge_answers(fmt, traces, forced, judge)
        paid = [[r for r in cut if r is not None] for cuts in rewards for cut in cuts]
        heard = [cut[0].state for cuts in forced for cut in cuts]
        states = torch.stack([state for state in heard if state is not None])
        counts = torch.tensor([float(len(one)) for one in paid], dtype=torch.float64)
        means = torch.tensor([sum(one) / len(one) if one else 0.0 for one in paid], dtype=torch.float64)
        if any(not 0 <= r <= 1 for one in paid for r in one):
            raise ConfigError("the 'learned' probe takes rewards in [0, 1]. Cure: probe='coupled'")
        values, errors = self._posterior(self.head.guess(states), means, counts)
        self.head.update(states, means, counts)
        found, place = [], 0
        for cuts, theirs in zip(forced, rewards, strict=True):
            own = slice(place, place + len(cuts))
            pairs = list(zip(values[own].tolist(), errors[own].tolist(), strict=True))
            found.append(probed(pairs, cuts, theirs))
            place += len(cuts)
        return found

    @property
    def plain(self) -> Sampled:
        """The same answers, counted: for a prover whose hidden states the head does not know."""
        return Sampled(self.samples, self.sampling, self.coupled)

    def _posterior(self, guess: Tensor | None, means: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations (n,); NaN where no answer could be scored."""
        strength = 0.0 if guess is None else self.head.strength
        prior = means if guess is None else guess
        if self.alone and guess is not None:
            values = guess
            errors = (guess * (1 - guess) / (strength + 1)).sqrt()
        else:
            values = (counts * means + strength * prior) / (counts + strength).clamp(min=1e-9)
            errors = (values * (1 - values) / (counts + strength + 1)).sqrt()
        unknown = counts == 0
        return values.masked_fill(unknown, math.nan), errors.masked_fill(unknown, math.nan)
