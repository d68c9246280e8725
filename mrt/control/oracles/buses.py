"""The bus grid: the exact value of finding the way while being paid for it, given what is known of the buses."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from mrt.control.envs.buses import BUSES, CENTRE, GOALS, SIZE, STOPS, BusGrid


def uninformed_bus(env: BusGrid, corner: int = 0) -> float:
    """Bayes-optimal return of one paid episode of the bus grid for a policy that was given no exploration.

    The value is 0.3, that of walking: a first ride wins and loses as much. `corner` is the index of the
    goal in `GOALS`.
    """
    return float(ride_values(env)[corner, known_orders().index((-1,) * len(BUSES))])


def known_orders() -> list[tuple[int, ...]]:
    """What may be known of the buses: the stop of each, -1 for not known; three known ones tell the fourth."""
    return [known for known in _partial_orders() if known.count(-1) != 1]


def ride_values(env: BusGrid) -> Tensor:
    """(corners, tables) float64: Bayes-optimal return of one paid episode to a corner of `GOALS`, for whoever knows of
    the buses what the table says, in the order of `known_orders`.

    Backward induction over (cell, what is known); riding an unknown bus tells where it goes.
    """
    ends = tuple(map(tuple, env.ends[:, :4].tolist()))
    return torch.tensor(_ride_values(env.spec.episode_steps, ends), dtype=torch.float64)


@lru_cache(maxsize=4)
def _ride_values(steps: int, ends: tuple[tuple[int, ...], ...]) -> list[list[float]]:
    tables = known_orders()
    number = {known: i for i, known in enumerate(tables)}
    walked = np.array(ends)
    stands = {x * SIZE + y: (i, -1) for i, (x, y) in enumerate(BUSES)}
    stands |= {x * SIZE + y: (-1, j) for j, (x, y) in enumerate(STOPS)}
    rides = [
        (cell, number[known], [(there, number[_closed(after)]) for there, after in _rides(known, *stand)])
        for cell, stand in stands.items()
        for known in tables
    ]
    found = []
    for x, y in GOALS:
        values = np.zeros((SIZE * SIZE, len(tables)))
        for _ in range(steps):
            worth = values - 0.1
            worth[x * SIZE + y] = 1.0
            better = worth[walked].max(1)
            for cell, known, ends_of in rides:
                better[cell, known] = max(better[cell, known], sum(worth[end] for end in ends_of) / len(ends_of))
            values = better
        found.append(values[CENTRE[0] * SIZE + CENTRE[1]].tolist())
    return found


def _partial_orders() -> list[tuple[int, ...]]:
    full = [dict(enumerate(order)) for order in permutations(range(4))]
    kept = [[bool(mask >> bus & 1) for bus in range(4)] for mask in range(16)]
    return sorted({tuple(order[i] if keep[i] else -1 for i in range(4)) for order in full for keep in kept})


def _closed(known: tuple[int, ...]) -> tuple[int, ...]:
    missing = ({0, 1, 2, 3} - set(known)).pop() if known.count(-1) == 1 else -1
    return tuple(missing if stop == -1 else stop for stop in known)


def _rides(known: tuple[int, ...], bus: int, stop: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Where a ride from a bus, or from a stop back, may lead, all equally likely: (cell, what is known then)."""
    pairs = [(i, j) for i in range(4) for j in range(4) if i == bus or j == stop]
    certain = [(i, j) for i, j in pairs if known[i] == j]
    for i, j in certain or [(i, j) for i, j in pairs if known[i] == -1 and j not in known]:
        x, y = STOPS[j] if bus >= 0 else BUSES[i]
        yield x * SIZE + y, (*known[:i], j, *known[i + 1 :])
