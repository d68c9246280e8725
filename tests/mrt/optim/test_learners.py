"""Several learners as one optimiser: clipping of each by its own norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mrt.optim.learners import CompositeOptimizer, Learner


@pytest.mark.parametrize(
    ("own", "default", "expected"), [(None, 2.0, 2.0), (0.5, 2.0, 0.5), (None, 0.0, 5.0), (0, 2.0, 5.0)]
)
def test_each_learner_is_clipped_to_its_own_norm_and_zero_is_no_clipping(
    own: float | None, default: float, expected: float
) -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, -4.0])
    composite = CompositeOptimizer({"one": Learner(torch.optim.SGD([parameter], lr=1.0), own)})
    assert float(composite.clip(default)) == pytest.approx(5.0), "the norm before clipping"
    assert float(parameter.grad.norm()) == pytest.approx(expected, rel=1e-5)
