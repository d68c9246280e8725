"""Places where processes wait for each other: each with a deadline, and a message that says who is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from mrt.errors import SyncError

DEADLINE = 1800.0  # seconds; weights of large models travel for minutes


@dataclass
class Meetings:
    """Meetings over the store of `torch.distributed`, which any backend has; they wait on the CPU and use no device.

    Args:
        store: a `torch.distributed.Store`.
        rank: of this process.
        ranks: of all that have to come, this one included.
    """

    store: Any
    rank: int
    ranks: Sequence[int]
    deadline: float = DEADLINE
    _held: dict[str, int] = field(default_factory=dict, repr=False)

    @staticmethod
    def of_world() -> Meetings | None:
        """Of all processes, the same one for all who ask: meetings are numbered. None where there is one process."""
        from torch import distributed

        if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
            return None
        store = distributed.distributed_c10d._get_default_store()
        world = Meetings(store, distributed.get_rank(), range(distributed.get_world_size()))
        return _WORLDS.setdefault(id(store), world)

    def meet(self, where: str, said: str = "") -> list[str]:
        """Waits until all have come to the meeting called `where`; what each says (`said`), in the order of `ranks`.

        Raises:
            SyncError: where one does not come before the deadline, naming it.
        """
        number = self._held[where] = self._held.get(where, -1) + 1
        self.store.set(self._key(where, number, self.rank), said.encode() + b".")
        heard = []
        for other in self.ranks:
            key = self._key(where, number, other)
            try:
                self.store.wait([key], timedelta(seconds=self.deadline))
            except RuntimeError as error:
                raise SyncError(
                    f"process {self.rank} waited {self.deadline:.0f} s for process {other} at '{where}' (meeting "
                    f"{number}). Look at what process {other} did last: it has ended, or it is stuck"
                ) from error
            heard.append(bytes(self.store.get(key))[:-1].decode())
        if number:  # all have left the meeting before this one
            self.store.delete_key(self._key(where, number - 1, self.rank))
        return heard

    @staticmethod
    def _key(where: str, number: int, rank: int) -> str:
        return f"mrt/{where}/{number}/{rank}"


_WORLDS: dict[int, Meetings] = {}  # by store


def meet(where: str) -> None:
    """All processes wait for each other at `where`; nothing to do where there is one.

    Raises:
        SyncError: where one does not come before the deadline, naming it.
    """
    world = Meetings.of_world()
    if world is not None:
        world.meet(where)
