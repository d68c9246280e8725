"""The finite guard: an update with a NaN or an infinity in its loss or its gradients never reaches the weights.

It is dropped whole, over all accumulated micro-batches and on every process, by setting the gradients to None (zeroed
ones would still move Adam), and its batches are written out so that the cause can be found.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mrt.errors import MRTError
from mrt.training.codec import save_tree

MAX_DUMPS = 50


class FiniteGuard:
    """Counts dropped updates; `limit` of them in a row end the run.

    Args:
        limit: the run ends after this many consecutive dropped updates.
        folder: where offending batches go, at most `MAX_DUMPS` of them.
    """

    def __init__(self, limit: int, folder: Path) -> None:
        self.limit, self.folder = limit, folder
        self.skipped = 0
        self.consecutive = 0
        self._bad = False
        self._batches: list[Any] = []
        self._culprits: list[str] = []

    def see(self, batch: Any, loss: Tensor, model: nn.Module) -> bool:
        """Notes a micro-batch and its loss; True while the update that it belongs to is still clean."""
        self._batches.append(batch)
        if not self._bad and not bool(torch.isfinite(loss).all()):
            self._bad, self._culprits = True, not_finite(model)
        return not self._bad

    def close(self, bad: bool, step: int, rank: int, model: nn.Module) -> bool:
        """Ends an update; `bad` is what all processes agreed on. Returns whether it has to be dropped.

        Raises:
            MRTError: when `limit` updates in a row were bad; names the folder of the dumps.
        """
        batches, culprits = self._batches, self._culprits or not_finite(model) if bad else []
        self._batches, self._culprits, self._bad = [], [], False
        if not bad:
            self.consecutive = 0
            return False
        self.skipped += 1
        self.consecutive += 1
        if self.skipped <= MAX_DUMPS:
            facts = {"step": step, "gradients_not_finite": culprits, "micro_batches": batches}
            save_tree(self.folder, f"step-{step}-rank-{rank}", facts, lenient=True)
        if self.consecutive >= self.limit:
            raise MRTError(
                f"{self.consecutive} consecutive updates had a loss or a gradient that is not finite, the last at step "
                f"{step}. The weights are those before them; the batches are in {self.folder}. Lower learning_rate, "
                "or look there for the rows and parameters that caused it"
            )
        return True

    def state_dict(self) -> dict[str, int]:
        return {"skipped": self.skipped, "consecutive": self.consecutive}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.skipped, self.consecutive = state["skipped"], state["consecutive"]


def not_finite(model: nn.Module) -> list[str]:
    """Names of the parameters whose gradient holds a NaN or an infinity."""
    return [name for name, parameter in model.named_parameters() if not finite([parameter])]


def finite(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether every gradient that is there is free of NaN and infinities (of the local shard, where it is sharded)."""
    grads = [p.grad for p in parameters if p.grad is not None]
    local = [grad.to_local() if hasattr(grad, "to_local") else grad for grad in grads]
    # The largest magnitude is NaN or infinite exactly when an entry is; one transfer for all parameters.
    return bool(torch.isfinite(nn.utils.get_total_norm(local, norm_type=float("inf")))) if local else True
