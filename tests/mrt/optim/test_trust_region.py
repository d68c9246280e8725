"""The trust-region step against closed forms and a dense solve."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from mrt.errors import ConfigError
from mrt.optim.trust_region import TrustRegion, conjugate_gradient, fisher_product, flat


def positive(size: int) -> Tensor:
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(size)).double()
    return root @ root.T / size + 0.5 * torch.eye(size).double()


@pytest.mark.parametrize("size", [1, 7, 40])
def test_conjugate_gradient_against_a_dense_solve(size: int) -> None:
    matrix, b = positive(size), torch.arange(1.0, size + 1).double()
    x = conjugate_gradient(lambda v: matrix @ v, b, iterations=2 * size + 2, tolerance=1e-20)
    assert torch.allclose(x, torch.linalg.solve(matrix, b), rtol=1e-8, atol=1e-8)


def test_a_few_iterations_lower_the_error_in_the_energy_norm() -> None:
    matrix, b = positive(40), torch.ones(40).double()
    exact = torch.linalg.solve(matrix, b)
    errors = []
    for iterations in range(6):
        off = conjugate_gradient(lambda v: matrix @ v, b, iterations) - exact
        errors.append(float(off @ matrix @ off))
    assert all(after < before for before, after in pairwise(errors))


def test_fisher_products_are_columns_of_the_hessian() -> None:
    a, b = torch.randn(3).double().requires_grad_(), torch.randn(2).double().requires_grad_()
    kl = (a.sin().sum() * b.exp().sum()).square()
    product = fisher_product(kl, [a, b], damping=0.25)
    hessian = torch.autograd.functional.hessian(
        lambda v: (v[:3].sin().sum() * v[3:].exp().sum()).square(), flat([a, b]).detach()
    )
    columns = torch.stack([product(unit) for unit in torch.eye(5).double()])
    assert torch.allclose(columns, hessian + 0.25 * torch.eye(5).double(), atol=1e-10)


def quadratic(theta: Tensor, slope: Tensor, fisher: Tensor, bend: float = 0.0) -> tuple[Tensor, Tensor]:
    """Surrogate g'theta - bend |theta|^4, KL theta' F theta / 2."""
    return slope @ theta - bend * (theta @ theta) ** 2, theta @ fisher @ theta / 2


def test_a_linear_surrogate_takes_the_natural_gradient_to_the_edge() -> None:
    """theta' = sqrt(2 delta / g'F^-1 g) F^-1 g, where the KL is exactly delta."""
    fisher, slope = positive(5), torch.randn(5).double()
    theta = torch.zeros(5).double().requires_grad_()
    region = TrustRegion(max_kl=0.02, damping=0.0, iterations=20)
    region_kl = TrustRegion(max_kl=0.02 * (1 + 1e-9), damping=0.0, iterations=20)  # the edge itself, rounding aside
    facts = region_kl.step([theta], lambda: quadratic(theta, slope, fisher))
    natural = torch.linalg.solve(fisher, slope)
    expected = (2 * region.max_kl / (slope @ natural)).sqrt() * natural
    moved = theta.detach()
    scale = float(moved.norm() / expected.norm())
    assert torch.allclose(moved, scale * expected, atol=1e-9)
    assert scale == pytest.approx(region.shrink ** facts["backtracks"], rel=1e-6)
    assert facts["accepted"] == 1
    assert facts["kl"] == pytest.approx(0.02 * scale**2, rel=1e-6)
    assert facts["surrogate"] == pytest.approx(facts["expected"] * scale, rel=1e-6)


def test_the_line_search_backs_off_and_may_leave_theta_alone() -> None:
    fisher, slope = torch.eye(2).double(), torch.tensor([1.0, 0.0]).double()
    theta = torch.zeros(2).double().requires_grad_()
    region = TrustRegion(max_kl=2.0, damping=0.0, shrink=0.5)
    facts = region.step([theta], lambda: quadratic(theta, slope, fisher, bend=1.0))
    # full step 2: 2 - 16 < 0; half: 1 - 1 = 0 is no gain; a quarter: 0.5 - 0.0625
    assert (facts["accepted"], facts["backtracks"]) == (1, 2)
    assert theta.tolist() == pytest.approx([0.5, 0.0])
    assert facts["surrogate"] == pytest.approx(0.4375)
    stuck = torch.ones(2).double().requires_grad_()
    facts = TrustRegion(backtracks=3).step(
        [stuck], lambda: (stuck.detach() @ stuck - 1e9 * (stuck - 1).abs().sum(), (stuck - 1).square().sum())
    )
    assert facts["accepted"] == 0
    assert stuck.tolist() == [1, 1]
    with pytest.raises(ConfigError, match="max_kl=0"):
        TrustRegion(max_kl=0)
