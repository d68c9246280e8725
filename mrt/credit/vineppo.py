"""VinePPO: differences of the value under going on."""

from __future__ import annotations

import torch
from torch import Tensor

from mrt.credit.grouping import last_measured, spread, weighable
from mrt.trials import Trials


def vineppo(trials: Trials) -> Tensor:
    """A_e = r_e + V_(e+1) - V_e per episode, V measured by going on: VinePPO (Kazemnejad et al. 2024, 2410.01679,
    equation 6).

    The answer's steps get R - V_K. Where V_K was not measured, the last episode and the answer both get R - V_(K-1).
    """
    if trials.stop_values is None:
        raise ValueError("vineppo needs stop values under a prover that continues")
    values, reward = trials.stop_values.float(), torch.nan_to_num(trials.returns)
    gained = values[:, 1:] - values[:, :-1]
    last = last_measured(values)
    to_end = (reward - values.gather(1, last[:, None])[:, 0])[:, None]
    after = torch.arange(gained.shape[1], device=gained.device) >= last[:, None]
    weight = torch.nan_to_num(torch.where(after, to_end.expand_as(gained), gained))
    return torch.where(trials.episode >= 0, spread(weight, trials), torch.nan_to_num(to_end)) * weighable(trials)
