"""Tasks and where they come from: deterministic in (seed, index), split by key so that no task is both trained on and
tested.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True)
class Task:
    """One task M: a canonical key (the same task always has the same key) and the data that define it."""

    key: str
    data: Mapping[str, Any] = field(default_factory=dict)


class TaskDistribution(Protocol):
    """p(M). `sample` is a pure function of (seed, index): no state, so a resumed run sees the same tasks."""

    @property
    def name(self) -> str: ...

    def sample(self, seed: int, index: int) -> Task: ...


def split_of(key: str, fractions: Mapping[str, float], seed: int = 0) -> str:
    """Name of the split that `key` belongs to: same key, fractions and seed, same split, on every machine.

    Args:
        fractions: split name -> share, summing to 1.

    Raises:
        ValueError: when the shares do not sum to 1.
    """
    if abs(sum(fractions.values()) - 1) > 1e-9:
        raise ValueError(f"split fractions must sum to 1, got {dict(fractions)}")
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    names = list(fractions)
    for name in names:
        position -= fractions[name]
        if position < 0:
            return name
    return names[-1]


def generator(seed: int, *index: int) -> torch.Generator:
    """A local random generator for task `index` of `seed`; global random states stay untouched. Several indices, such
    as (generation, individual), name a stream apart from that of every task.
    """
    digest = hashlib.sha256(":".join(map(str, (seed, *index))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def uniforms(seed: int, indices: np.ndarray | Sequence[int], width: int, attempt: int = 0) -> Tensor:
    """(B, width) float32 numbers in [0, 1), each a hash of (seed, index, attempt, column): splitmix64, Steele 2014."""
    with np.errstate(over="ignore"):
        base = _mix(np.uint64(int(seed) % 2**64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(attempt))
        rows = _mix(np.asarray(indices, dtype=np.uint64) ^ base)
        cells = _mix(rows[:, None] + np.arange(1, width + 1, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03))
    return torch.from_numpy(((cells >> np.uint64(40)).astype(np.float64) / 2**24).astype(np.float32))


def _mix(x: Any) -> Any:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class IndexDataset(Dataset):
    """`size` rows {"index": i}: what the outer loop iterates. The task itself is drawn from (seed, index)."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"index": int(index)}


@contextmanager
def own_draws(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's own generators, that of the CPU and that of `device`, seeded for a while and then as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
