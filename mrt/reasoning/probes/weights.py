"""J from distinct answers, each weighed by its probability over the chance that it was drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mrt.reasoning.probes.forced import Forced


def horvitz_thompson(answers: Sequence[Forced], rewards: Sequence[float | None]) -> tuple[float, float]:
    """(J, standard error) of one boundary: sum of r_a p_a / pi_a over the distinct answers drawn (Horvitz and Thompson
    1952), pi_a = 1 - (1 - p_a)^n the chance that n draws hold a.

    Unbiased where every answer can be scored (else it is the J of those that can). The standard error is that of
    Horvitz and Thompson's unbiased estimate of the variance, 0 where that is negative. J may exceed the largest reward.
    """
    scored = [(one, reward) for one, reward in zip(answers, rewards, strict=True) if reward is not None]
    n = len(scored)
    if n == 0:
        return math.nan, math.nan
    found = {one.ids: (one.probability, reward) for one, reward in scored}
    pairs = [(p, r * p / inclusion(p, n)) for p, r in found.values()]
    variance = sum((1 - inclusion(p, n)) * y * y for p, y in pairs)
    for i, (p, y) in enumerate(pairs):
        for q, z in pairs[:i]:
            both = inclusion(p, n) + inclusion(q, n) - inclusion(min(p + q, 1.0), n)
            variance += 2 * y * z * (1 - inclusion(p, n) * inclusion(q, n) / both) if both > 0 else 0.0
    return sum(y for _, y in pairs), math.sqrt(max(variance, 0.0))


def inclusion(p: float, n: float) -> float:
    """1 - (1 - p)^n: the chance that `n` draws hold something of probability `p` at least once."""
    return -math.expm1(n * math.log1p(-p)) if p < 1 else 1.0
