"""What a trainer keeps between updates: the batch that an update learns from, a collection that serves several
updates, and what the run has cost. All of it survives a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from mrt.trials import Trials


@dataclass(frozen=True)
class Batch:
    """Trials with what was computed of them: `weights` (B, T), the credit of every step, and `targets` {name: (B, ...)}
    of whatever else is fitted (a critic).
    """

    trials: Trials
    weights: Tensor
    targets: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.trials)

    def rows(self, index: Tensor) -> Batch:
        """The rows at `index` (int64), every field alike."""
        targets = {name: value[index] for name, value in self.targets.items()}
        return Batch(self.trials.rows(index), self.weights[index], targets)

    def to_tree(self) -> dict[str, Any]:
        """The same as mappings of tensors, as checkpoints hold it."""
        trials = {entry.name: getattr(self.trials, entry.name) for entry in fields(Trials)}
        return {"trials": trials, "weights": self.weights, "targets": dict(self.targets)}

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any], device: torch.device | str = "cpu") -> Batch:
        """Back from `to_tree`, on `device`."""
        targets = {name: value.to(device) for name, value in tree["targets"].items()}
        return cls(Trials(**tree["trials"]).to(device), tree["weights"].to(device), targets)


class Collection:
    """One collected batch and the order in which its rows are still to be learned from; false once it is used up."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = device
        self.batch: Batch | None = None
        self.left: list[Tensor] = []

    def __bool__(self) -> bool:
        return bool(self.left)

    def fill(self, batch: Batch, epochs: int = 1, minibatches: int | None = None) -> None:
        """Takes a new batch, to be seen `epochs` times: whole, or in `minibatches` parts of an order drawn now."""
        self.batch = batch
        if minibatches is None:
            self.left = [torch.arange(len(batch))] * epochs
        else:
            orders = [torch.randperm(len(batch)) for _ in range(epochs)]
            self.left = [part for order in orders for part in order.chunk(minibatches)]

    def next(self) -> Batch:
        """The next part.

        Raises:
            RuntimeError: when nothing is left.
        """
        if self.batch is None or not self.left:
            raise RuntimeError("the collection is used up: fill it first")
        index = self.left.pop(0)
        return self.batch if len(index) == len(self.batch) else self.batch.rows(index)

    def state_dict(self) -> Any:
        """What a checkpoint keeps; None where nothing is left to learn from."""
        if self.batch is None or not self.left:
            return None
        return {"batch": self.batch.to_tree(), "left": list(self.left)}

    def load_state_dict(self, state: Any) -> None:
        """Goes on from `state_dict`."""
        if state is None:
            self.batch, self.left = None, []
        else:
            self.batch, self.left = Batch.from_tree(state["batch"], self.device), list(state["left"])


class Cost:
    """Counters of a run: positions through a model, environment steps, probe steps.

    `add` counts what this process spent; `total` is of all processes and moves only in `sum_up`, which every process
    calls once an update. So whatever is decided by a total (the end of training, a schedule) is decided the same way
    everywhere.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.total: dict[str, float] = dict.fromkeys(names, 0.0)
        self._pending: dict[str, float] = dict.fromkeys(names, 0.0)

    def add(self, **spent: float) -> None:
        """Counts what this process has spent since."""
        for name, value in spent.items():
            self._pending[name] = self._pending.get(name, 0.0) + float(value)

    def sum_up(self, across: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """Adds what was counted to the totals and returns them.

        Args:
            across: (N,) float64 of this process -> (N,) sum over all processes; None for one process. Every process has
                to have counted the same names.
        """
        names = sorted(self._pending)
        values = [self._pending[name] for name in names]
        if across is not None and names:
            values = across(torch.tensor(values, dtype=torch.float64)).tolist()
        for name, value in zip(names, values, strict=True):
            self.total[name] = self.total.get(name, 0.0) + value
            self._pending[name] = 0.0
        return dict(self.total)

    def state_dict(self) -> dict[str, dict[str, float]]:
        """What a checkpoint keeps."""
        return {"total": dict(self.total), "pending": dict(self._pending)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Goes on from `state_dict`."""
        self.total, self._pending = dict(state["total"]), dict(state["pending"])
