"""Adaptation phi_j = f_theta(D_0:j) as one protocol: in context, by gradient steps, by a posterior, a memory write or
a model update.

`phi = init(theta)` starts a trial; `phi = adapt(theta, phi, data)` is called at the declared cadence. phi never crosses
the end of a trial: `mrt.control.interaction` is the one place that holds it.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

Cadence = Literal["step", "episode", "k-shot", "chunk"]
Differentiability = Literal["second-order", "first-order", "none"]


class Adaptation(Protocol):
    """What a meta-learner does between its data and its next act.

    `cadence` says when `adapt` is called; `differentiability` says what the outer loss may expect of it:
    `second-order` (gradients through the inner gradient), `first-order` (inner gradients are constants) or `none`
    (evolved, or trained by another learner).
    """

    @property
    def cadence(self) -> Cadence: ...

    @property
    def differentiability(self) -> Differentiability: ...

    def init(self, theta: Any) -> Any: ...

    def adapt(self, theta: Any, phi: Any, data: Any) -> Any: ...
