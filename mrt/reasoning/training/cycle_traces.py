"""Traces of `cycles` for the warm start: a step an episode, the number reached and the best so far.

    12 12\\n\\nWait96 12\\n\\nWait89 12\\n\\nWait33 33</think>\\boxed{33}<|end|>       for 12*8->80

A trace knows only what it has worked out: it answers with the best so far as it wrote it (0 while there is none), and
without an episode with a number up to the bound, drawn at random.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any


def cycle_episodes(
    data: Mapping[str, Any], rng: random.Random, episodes: int, *, recheck: float, overwrite: float
) -> tuple[list[str], int, bool]:
    """`episodes` steps through the cycle of a problem with this `data`, round and round: the trace does not notice that
    it has been everywhere.

    With chance `recheck` an episode repeats the one before word by word (useless); with chance `overwrite` a number
    that is not better than the best so far takes its place (harmful).

    Returns:
        the episodes, the answer, and whether every number was reached.
    """
    numbers, bound = data["numbers_of_cycle"], data["bound"]
    written, best, reached = list[str](), 0, 0
    while len(written) < episodes:
        if written and rng.random() < recheck:
            written.append(written[-1])
            continue
        number = numbers[reached % len(numbers)]
        reached += 1
        if best < number <= bound or rng.random() < overwrite:
            best = number
        written.append(f"{number} {best}")
    return written, best if written else rng.randint(0, bound), reached >= len(numbers)
