"""Meetings of processes, here threads: a deadline, who is missing, and one numbering for all who meet."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from torch import distributed
from torch.distributed import HashStore

from mrt.errors import SyncError
from mrt.training.meeting import Meetings, meet


def together(*runs: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(runs)) as pool:
        return [one.result(timeout=60) for one in [pool.submit(run) for run in runs]]


def test_meetings_have_a_deadline_and_name_who_is_missing() -> None:
    store = HashStore()
    here, there = (Meetings(store, rank, range(2), deadline=0.5) for rank in range(2))
    for said in ("a", ""):  # the same meeting again is another one
        heard = together(lambda said=said: here.meet("weights", said), lambda: there.meet("weights", "b"))  # type: ignore[misc]
        assert heard == [[said, "b"]] * 2
    with pytest.raises(SyncError, match=r"process 0 waited 0 s for process 1 at 'weights' \(meeting 2\)"):
        here.meet("weights")


def test_whoever_asks_for_the_meetings_of_the_world_continues_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second trainer in the same processes: from 0 again, it would find the notes of an old meeting."""
    meet("alone")  # nothing to wait for
    assert Meetings.of_world() is None
    store = HashStore()
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed.distributed_c10d, "_get_default_store", lambda: store)
    other = Meetings(store, 1, range(2), deadline=20)
    for _ in range(2):  # trainers
        found = Meetings.of_world()
        assert found is not None
        found.deadline = 0.5
        together(lambda: other.meet("x"), lambda: meet("x"))
    with pytest.raises(SyncError, match=r"process 1 at 'x' \(meeting 2\)"):
        meet("x")
