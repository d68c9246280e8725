"""What adaptation bought: the error of a learner after 0, 1, 2, ... gradient steps, on tasks that training never saw.

Losses after adaptation have heavy tails (one task in thousands diverges): medians, trimmed means and the share that
diverged stand beside every mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from classic_metarl.gradient.supervised import FewShot, MetaLearner, score_curve, split

TEST_SEED = 2**31 - 1  # tasks come from (seed, index): no run trains with this seed
DIVERGED = 100.0  # a loss above this is told apart, some 25 times that of the predictor 0


def loss_curve(learner: MetaLearner, family: FewShot, tasks: int, steps: int, seed: int = TEST_SEED) -> Tensor:
    """(tasks, steps + 1) minus the mean score of each held-out task after each number of gradient steps."""
    held_out = [family.sample(seed, index) for index in range(tasks)]
    stages, query = split(family, *family.examples(held_out))
    return -score_curve(learner, stages, query, steps).mean(-1)


def summarise(losses: Tensor, trim: float = 0.01) -> dict[str, list[float]]:
    """Mean, standard error, median, trimmed mean and divergence rate of losses (tasks, steps + 1), one entry a step.

    The trimmed mean leaves out the share `trim` of tasks at either end.
    """
    known = torch.nan_to_num(losses.double(), nan=math.inf)
    cut = int(len(known) * trim)
    ordered = known.sort(0).values
    return {
        "mean": known.mean(0).tolist(),
        "error": (known.std(0) / math.sqrt(len(known))).tolist(),
        "median": known.median(0).values.tolist(),
        "trimmed": ordered[cut : len(known) - cut].mean(0).tolist(),
        "diverged": (known > DIVERGED).double().mean(0).tolist(),
    }


def shown(summary: Mapping[str, Any], steps: tuple[int, ...]) -> str:
    """One line: the trimmed means at these steps."""
    return ", ".join(f"{step}: {summary['trimmed'][step]:.3f}" for step in steps)
