"""The clipped surrogate, by hand."""

import torch

from mrt.optim.surrogate import surrogate


def test_a_gain_is_clipped_only_where_it_would_grow():
    ratio, advantage = torch.tensor([1.5, 1.5, 0.5, 0.5]), torch.tensor([2.0, -2.0, 2.0, -2.0])
    assert torch.allclose(surrogate(ratio, advantage, 0.2), torch.tensor([2.4, -3.0, 1.0, -1.6]))
    assert torch.allclose(surrogate(ratio, advantage), torch.tensor([3.0, -3.0, 1.0, -1.0]))
