"""The bus grid without exploration: the exact value of finding the way while being paid for it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from mrt.control.envs.buses import BUSES, CENTRE, GOALS, SIZE, STOPS, BusGrid


def uninformed_bus(env: BusGrid, corner: int = 0) -> float:
    """Bayes-optimal return of one paid episode of the bus grid for a policy that was given no exploration.

    Backward induction over (cell, what is known of the buses); riding an unknown bus tells where it goes. The value is
    0.3, that of walking: a first ride wins and loses as much. `corner` is the index of the goal in `GOALS`.
    """
    tables = [known for known in _partial_orders() if known.count(-1) != 1]  # the last bus is known by elimination
    number = {known: i for i, known in enumerate(tables)}
    cells = np.arange(SIZE * SIZE)
    goal = GOALS[corner][0] * SIZE + GOALS[corner][1]
    walked = env.ends[:, :4].cpu().numpy()
    stands = {x * SIZE + y: (i, -1) for i, (x, y) in enumerate(BUSES)}
    stands |= {x * SIZE + y: (-1, j) for j, (x, y) in enumerate(STOPS)}
    rides = [
        (cell, number[known], [(there, number[_closed(after)]) for there, after in _rides(known, *stand)])
        for cell, stand in stands.items()
        for known in tables
    ]
    values = np.zeros((len(cells), len(tables)))
    for _ in range(env.spec.episode_steps):
        worth = values - 0.1
        worth[goal] = 1.0
        better = worth[walked].max(1)
        for cell, known, ends in rides:
            better[cell, known] = max(better[cell, known], sum(worth[end] for end in ends) / len(ends))
        values = better
    return float(values[CENTRE[0] * SIZE + CENTRE[1], number[(-1,) * 4]])


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
