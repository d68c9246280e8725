"""Stop values as a few answers give them, with what is known of their errors used: shrinkage and smoothing."""

from __future__ import annotations

import torch
from torch import Tensor

from mrt.credit.outcome import Gather

FLOOR = 1e-6  # of a variance


def reliability(values: Tensor, errors: Tensor, gather: Gather | None = None) -> float:
    """The share of the variance of progress that is signal: 1 - mean(se_j^2 + se_(j-1)^2) / var(J_j - J_(j-1)), in
    [0, 1], over the neighbouring measured boundaries of the batch (of all processes with `gather`).

    The errors of neighbours are taken as independent: coupled answers are more reliable than this says.
    """
    found, noise = _neighbours(values, errors)
    if gather is not None:
        counted = torch.stack([found.new_tensor(float(len(found))), found.sum(), found.square().sum(), noise.sum()])
        count, total, square, noisy = gather(counted).reshape(-1, 4).sum(0).tolist()
    else:
        count, total, square, noisy = len(found), float(found.sum()), float(found.square().sum()), float(noise.sum())
    if count < 2:
        return 1.0
    variance = (square - total**2 / count) / (count - 1)
    return min(1.0, max(0.0, 1 - noisy / count / max(variance, FLOOR)))


def smooth(values: Tensor, errors: Tensor, gather: Gather | None = None) -> Tensor:
    """(B, K+1) posterior means of J along each trace: a random walk seen with noise, given all its boundaries (what a
    Kalman filter and the smoother of Rauch, Tung and Striebel 1965 compute in turn). NaN stays NaN.

    The variance of a step of the walk is what the batch's progress has beyond noise; that of an observation is the mean
    of its own se^2 and of the batch's, for the se of four equal answers is 0. Biased towards neighbours.
    """
    share = reliability(values, errors, gather)
    found, noise = _neighbours(values, errors)
    if not len(found) or float(noise.sum()) == 0:
        return values
    signal = max(float(noise.mean()) * share / max(1 - share, FLOOR), FLOOR)
    seen = ~values.isnan()
    square = torch.nan_to_num(errors.double()) ** 2
    r = (square + square[seen].mean()) / 2
    weight = torch.where(seen, 1 / r.clamp(min=FLOOR), torch.zeros_like(r))
    inside = (seen.flip(1).cumsum(1).flip(1) > 0)[:, 1:]  # up to the last measured boundary
    step = inside.double() / signal
    precision = torch.diag_embed(weight) + torch.diag_embed(torch.nn.functional.pad(step, (0, 1)))
    precision = precision + torch.diag_embed(torch.nn.functional.pad(step, (1, 0)))
    precision = precision - torch.diag_embed(step, 1) - torch.diag_embed(step, -1)
    precision = precision + FLOOR * torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
    means = torch.linalg.solve(precision, (weight * torch.nan_to_num(values.double()))[..., None])[..., 0]
    return torch.where(seen, means.to(values.dtype), values)


def _neighbours(values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    """Progress between neighbouring measured boundaries, and the variance of its noise; flat."""
    found, noise = [], []
    for value, error in zip(values, errors, strict=True):
        seen = ~(value.isnan() | error.isnan())
        found.append(value[seen].diff())
        square = error[seen] ** 2
        noise.append(square[1:] + square[:-1])
    return torch.cat(found).double(), torch.cat(noise).double()
