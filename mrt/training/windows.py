"""What was logged since the last log, as one number a name for all processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def window_means(window: Mapping[str, Sequence[float]], processes: int = 1) -> dict[str, float]:
    """The mean of every name's values over all processes, NaN where nothing was measured anywhere.

    With several processes all of them have to call it; they need not have measured the same names.
    """
    kept = {name: [value for value in values if not math.isnan(value)] for name, values in window.items()}
    sums = {name: (sum(values), len(values)) for name, values in kept.items()}
    if processes > 1:
        from accelerate.utils import gather_object

        everyone: list[dict[str, tuple[float, int]]] = gather_object([sums])
        names = dict.fromkeys(name for one in everyone for name in one)
        parts = {name: [one.get(name, (0.0, 0)) for one in everyone] for name in names}
        sums = {name: (sum(total for total, _ in of), sum(count for _, count in of)) for name, of in parts.items()}
    return {name: total / count if count else math.nan for name, (total, count) in sums.items()}
