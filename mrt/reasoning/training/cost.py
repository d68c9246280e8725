"""What a run has cost in positions through the model, and the end of a run that has cost enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from mrt.training.collection import Cost

NAMES = ("sampled", "probed", "updated")


class CostLimit(TrainerCallback):
    """Ends the training once `spent()` reaches `limit`: arms are compared at equal cost.

    `spent` is the same number on all processes, or else they would stop at different steps.
    """

    def __init__(self, spent: Callable[[], float], limit: float) -> None:
        self.spent, self.limit = spent, limit

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.spent() >= self.limit:
            control.should_training_stop = True


def weighed(cost: Cost) -> dict[str, int]:
    """The counters of all processes and their `total`: sampled 1, probed 1, updated 3."""
    spent = {name: int(cost.total.get(name, 0)) for name in NAMES}
    return {**spent, "total": spent["sampled"] + spent["probed"] + 3 * spent["updated"]}
