"""What adaptation bought: the error of a learner after 0, 1, 2, ... gradient steps, on tasks that training never saw.

Losses after adaptation have heavy tails (one task in thousands diverges): medians, trimmed means and the share that
diverged are shown beside every mean.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from classic_metarl.trainers.few_shot import FewShot, FewShotLearner, split

TEST_SEED = 2**31 - 1  # tasks come from (seed, index): no run trains with this seed
BATCH = 500  # tasks at a time
DIVERGED = 100.0  # a loss above this counts as diverged, some 25 times that of the predictor 0


def loss_curve(
    learner: FewShotLearner, family: FewShot, tasks: int, steps: int | None, seed: int = TEST_SEED
) -> Tensor:
    """(tasks, steps + 1) minus the mean score of each held-out task (its squared error, or minus its accuracy) after
    each number of gradient steps; as many as in training where `steps` is None. Computed where the learner is.
    """
    device = next((parameter.device for parameter in learner.parameters()), torch.device("cpu"))
    held_out = [family.sample(seed, index) for index in range(tasks)]
    parts = []
    for start in range(0, tasks, BATCH):
        x, y = (part.to(device) for part in family.examples(held_out[start : start + BATCH]))
        parts.append(-learner.curve(*split(family, x, y), steps).mean(-1).cpu())
    return torch.cat(parts)


def summarise(losses: Tensor, trim: float = 0.01) -> dict[str, list[float]]:
    """Mean, standard error, median, trimmed mean and divergence rate of losses (tasks, steps + 1), one entry a step.

    `kept` is the mean over the tasks that did not diverge; the trimmed mean leaves out the share `trim` of tasks at
    either end, and so lies below it where the upper tail is the heavy one.
    """
    known = torch.nan_to_num(losses.double(), nan=math.inf)
    cut = int(len(known) * trim)
    ordered = known.sort(0).values
    return {
        "mean": known.mean(0).tolist(),
        "kept": known.where(known <= DIVERGED, torch.nan).nanmean(0).tolist(),
        "error": (known.std(0) / math.sqrt(len(known))).tolist(),
        "median": known.median(0).values.tolist(),
        "trimmed": ordered[cut : len(known) - cut].mean(0).tolist(),
        "diverged": (known > DIVERGED).double().mean(0).tolist(),
    }
