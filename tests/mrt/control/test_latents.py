"""The Gaussian latent against the closed forms and against `torch.distributions`."""

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from mrt.control.latents import Latent, product


def latent(rows: int = 4, seed: int = 0) -> Latent:
    g = torch.Generator().manual_seed(seed)
    return Latent(torch.randn(rows, 3, generator=g), torch.randn(rows, 3, generator=g))


def peer(one: Latent) -> Normal:
    return Normal(one.mean, one.std)


def test_product_of_two_gaussians_is_the_closed_form() -> None:
    """T36: N(1, 1) N(3, 1/2) is N(7/3, 1/3); with the unit prior as one more factor N(7/4, 1/4)."""
    factors = Latent(torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [0.5]]).log())
    for prior, mean, variance in ((False, 7 / 3, 1 / 3), (True, 7 / 4, 1 / 4)):
        found = product(factors, prior=prior)
        torch.testing.assert_close(found.mean, torch.tensor([mean]), atol=1e-6, rtol=0)
        torch.testing.assert_close(found.log_variance.exp(), torch.tensor([variance]), atol=1e-6, rtol=0)


def test_product_counts_masked_in_factors_in_any_order() -> None:
    factors, mask = latent(6), torch.tensor([True, False, True, True, False, True])
    found = product(factors, mask)
    kept = Latent(*(value[mask].flip(0) for value in factors))
    torch.testing.assert_close(found, product(kept))


def test_product_of_nothing_is_the_prior() -> None:
    nothing = torch.zeros(6, dtype=torch.bool)
    for prior in (False, True):
        torch.testing.assert_close(product(latent(6), nothing, prior), Latent.unit(torch.zeros(3)))


def test_divergences_entropy_and_density_are_those_of_torch() -> None:
    one, other = latent(seed=1), latent(seed=2)
    z = one.sample(torch.Generator().manual_seed(3))
    torch.testing.assert_close(one.kl(other), kl_divergence(peer(one), peer(other)).sum(-1))
    torch.testing.assert_close(one.kl_unit(), one.kl(Latent.unit(one.mean)))
    torch.testing.assert_close(one.entropy(), peer(one).entropy().sum(-1))
    torch.testing.assert_close(other.log_prob(z), peer(other).log_prob(z).sum(-1))


def test_draws_follow_the_distribution_and_have_gradients() -> None:
    mean, log_variance = torch.tensor([1.0, -2.0], requires_grad=True), torch.tensor([0.0, -2.0], requires_grad=True)
    many = Latent(mean.expand(20_000, 2), log_variance.expand(20_000, 2)).sample(torch.Generator().manual_seed(4))
    torch.testing.assert_close(many.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(many.var(0), log_variance.exp(), atol=0.03, rtol=0)
    grads: tuple[Tensor, ...] = torch.autograd.grad(many.square().mean(0).sum(), (mean, log_variance))
    torch.testing.assert_close(grads[0], 2 * mean, atol=0.03, rtol=0)
    torch.testing.assert_close(grads[1], log_variance.exp(), atol=0.03, rtol=0)
