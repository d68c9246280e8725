"""A credit as a trainer runs it: annealed, watched by the cancellation guard, alike on every process."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from mrt.credit.guard import check_bonus, mean_effective_std
from mrt.credit.outcome import outcome
from mrt.credit.table import Credit
from mrt.trials import Trials


class BonusCredit:
    """`weigh(trials, fraction)` gives the weights (B, T) and the metrics of the bonus to log.

    The cancellation guard looks at the first batches until one could tell, over the groups of all processes: the run
    ends everywhere or nowhere.
    """

    def __init__(self, credit: Credit, accelerator: Any = None) -> None:
        self.credit, self.accelerator = credit, accelerator
        self.guarded = False

    @property
    def name(self) -> str:
        """The credit's name."""
        return self.credit.name

    def weigh(self, trials: Trials, fraction: float) -> tuple[Tensor, dict[str, float]]:
        """The weights at `fraction` of the training.

        Raises:
            ConfigError: when the bonus cancels in every group that can tell.
        """
        gather = self.accelerator.gather if self.accelerator is not None else None
        weights = self.credit(trials, fraction, gather)
        alpha = self.credit.alpha(fraction)
        if not alpha:
            return weights, {}
        base = outcome(trials, scale=self.credit.options["scale"], gather=gather)
        bonus = (weights - base) / alpha
        if self.guarded:
            left = mean_effective_std(trials, base, bonus, gather)
        else:
            left = check_bonus(trials, base, bonus, gather=gather)
            self.guarded = not math.isnan(left)
        return weights, {"progress/effective_std": left, "progress/alpha": alpha}

    def state_dict(self) -> dict[str, bool]:
        """Whether the guard has seen a batch that could tell."""
        return {"guarded": self.guarded}

    def load_state_dict(self, state: dict[str, bool]) -> None:
        self.guarded = state["guarded"]
