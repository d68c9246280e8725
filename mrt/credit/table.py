"""Credits by name, with their options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mrt.credit.attempts import attempt_returns
from mrt.credit.brpo import brpo
from mrt.credit.grouping import check_compares, rank
from mrt.credit.outcome import Gather, leave_one_out, outcome
from mrt.credit.progress import progress
from mrt.credit.returns import gae, reward_to_go
from mrt.credit.vineppo import vineppo
from mrt.errors import ConfigError, nearest
from mrt.trials import PROVERS, Trials


@dataclass(frozen=True)
class Credit:
    """A credit with its options: `credit(trials, fraction)` -> weights (B, T).

    `fraction` in [0, 1] is how far training has come: `alpha` moves linearly to `alpha_end` where that is given.

    Raises:
        ConfigError: when the credit only compares the rows of a group, and every group has one row.
        ValueError: when the stop values were measured by another prover than the credit needs.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    alpha_end: float | None = None

    @property
    def prover(self) -> str:
        """The prover whose stop values it needs: forced, continue or none."""
        return "none" if self.options.get("alpha", 1) == 0 and self.alpha_end is None else CREDITS[self.name][1]

    def alpha(self, fraction: float = 0.0) -> float:
        """The bonus weight at `fraction` of training; 0 for a credit without a bonus."""
        if self.name != "progress":
            return 0.0
        start = float(self.options.get("alpha", 1.0))
        return start if self.alpha_end is None else start + (self.alpha_end - start) * min(max(fraction, 0.0), 1.0)

    def __call__(self, trials: Trials, fraction: float = 0.0, gather: Gather | None = None) -> Tensor:
        if self.prover != "none":
            wrong = trials.prover[trials.prover != PROVERS[self.prover]]
            if len(wrong):
                found = {number: name for name, number in PROVERS.items()}[int(wrong[0])]
                raise ValueError(
                    f"credit '{self.name}' needs stop values from the '{self.prover}' prover, these come from '{found}'"
                )
        if self.name in COMPARE:
            check_compares(rank(trials.group), self.name)
        options = dict(self.options)
        if self.name == "progress":
            options["alpha"] = self.alpha(fraction)
        if options.get("scale", "group") == "batch" or options.get("denoise", "none") != "none":
            options["gather"] = gather
        return CREDITS[self.name][0](trials, **options)


CREDITS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "outcome": (outcome, "none"),
    "leave_one_out": (leave_one_out, "none"),
    "attempt_returns": (attempt_returns, "none"),
    "reward_to_go": (reward_to_go, "none"),
    "gae": (gae, "none"),
    "progress": (progress, "forced"),
    "brpo": (brpo, "forced"),
    "vineppo": (vineppo, "continue"),
}
"""Name -> (function, the prover it needs)."""

COMPARE = ("outcome", "leave_one_out", "attempt_returns")
"""Credits that are zero for a row which is alone in its group."""


def make_credit(name: str, alpha_end: float | None = None, **options: Any) -> Credit:
    """The credit called `name`; raises ConfigError for an unknown name or option, with the nearest valid one."""
    if name not in CREDITS:
        raise ConfigError(f"credit '{name}' is unknown; {nearest(name, set(CREDITS))}")
    valid = set(inspect.signature(CREDITS[name][0]).parameters) - {"trials", "gather"}
    for key in options:
        if key not in valid:
            raise ConfigError(f"credit '{name}' has no option '{key}'; {nearest(key, valid)}")
    if alpha_end is not None and name != "progress":
        raise ConfigError(f"credit '{name}' has no alpha to anneal; alpha_end belongs to 'progress'")
    return Credit(name, options, alpha_end)
