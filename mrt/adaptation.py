"""Adaptation phi_j = f_theta(D_0:j) as one protocol: in context, by gradient steps, by a posterior, a memory write or
a model update.

`phi = init(theta)` starts a trial; `phi = adapt(theta, phi, data)` is called at the declared cadence. `phi` never
crosses the end of a
trial: `AdaptationState` is the one place that asserts it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Cadence = Literal["step", "episode", "k-shot", "chunk"]
Differentiability = Literal["second-order", "first-order", "none"]


class Adaptation(Protocol):
    """What a meta-learner does between its data and its next act.

    `cadence` says when `adapt` is called; `differentiability` says what the outer loss may expect of it:
    `second-order` (gradients through the inner gradient), `first-order` (inner gradients are constants) or `none`
    (evolved, or trained by another learner).
    """

    cadence: Cadence
    differentiability: Differentiability

    def init(self, theta: Any) -> Any: ...

    def adapt(self, theta: Any, phi: Any, data: Any) -> Any: ...


@dataclass
class AdaptationState:
    """phi of one batch of trials, guarded: it is born with a trial and dies with it."""

    adaptation: Adaptation
    theta: Any
    phi: Any = None
    trial: Any = None

    def begin(self, trial: Any) -> Any:
        """Starts `trial` (any id) with a fresh phi."""
        self.trial, self.phi = trial, self.adaptation.init(self.theta)
        return self.phi

    def adapt(self, trial: Any, data: Any) -> Any:
        """phi after `data`.

        Raises:
            RuntimeError: when `trial` is not the one that `begin` started, that is, when phi would cross the end of a
                trial.
        """
        if self.phi is None or trial != self.trial:
            raise RuntimeError(
                f"adaptation state of trial {self.trial!r} was used in trial {trial!r}: call begin() first"
            )
        self.phi = self.adaptation.adapt(self.theta, self.phi, data)
        return self.phi

    def end(self) -> None:
        """Ends the trial: phi is dropped."""
        self.phi = self.trial = None


@dataclass(frozen=True)
class InContext:
    """The adaptation of a sequence model: phi is its cache, `adapt` one recurrence (RL2, SNAIL, an LLM reading its own
    thought).
    """

    start: Callable[[Any], Any]
    step: Callable[[Any, Any, Any], Any]
    cadence: Cadence = "step"
    differentiability: Differentiability = "second-order"

    def init(self, theta: Any) -> Any:
        return self.start(theta)

    def adapt(self, theta: Any, phi: Any, data: Any) -> Any:
        return self.step(theta, phi, data)
