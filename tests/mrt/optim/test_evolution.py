"""Evolution strategies against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mrt.errors import ConfigError
from mrt.optim.evolution import (
    EvolutionStrategy,
    centred_ranks,
    pair_noise,
    population_fitness,
    surrogate,
)

PHI = torch.tensor([3.0, -1.0, 0.5])


def test_the_gradient_on_a_quadratic_is_minus_two_phi() -> None:
    """T42. F = -|phi|^2: every pair says exactly -2 (phi . eps) eps, whatever sigma, and their mean is -2 phi."""
    pairs = 100_000
    strategy = EvolutionStrategy(2 * pairs, 0.3, "raw")
    half = torch.randn(pairs, 3, generator=torch.Generator().manual_seed(0))
    noise = torch.cat([half, -half])
    slope = strategy.gradient(-(PHI + 0.3 * noise).square().sum(1), [noise])[0]
    assert (slope + 2 * PHI).norm() <= 0.02 * (2 * PHI).norm()
    second_moment = half.T @ half / pairs
    assert torch.allclose(slope, -2 * second_moment @ PHI, rtol=1e-3)


@pytest.mark.parametrize("sigma", [0.01, 1.0])
def test_one_pair_by_hand(sigma: float) -> None:
    """Antithetic differences of a quadratic have no error of order sigma."""
    strategy = EvolutionStrategy(2, sigma, "raw")
    parts = [PHI.double()[:2].view(2, 1), PHI.double()[2]]
    noise = strategy.noise(parts, seed=7, generation=3)
    assert [tuple(eps.shape) for eps in noise] == [(2, 2, 1), (2,)]
    assert all(torch.equal(eps[0], -eps[1]) for eps in noise)
    flat = [torch.cat([each.reshape(2, -1) for each in tree], 1) for tree in (strategy.people(parts, noise), noise)]
    found = strategy.gradient(-flat[0].square().sum(1), noise)
    along = -2 * (PHI.double() @ flat[1][0])
    assert torch.allclose(found[0], along * noise[0][0], rtol=1e-9)
    assert torch.allclose(found[1], along * noise[1][0], rtol=1e-9)


def test_ranked_gradients_point_uphill_and_do_not_know_units() -> None:
    """F = -|phi|^2 is monotone along its gradient, and so is any monotone map of it."""
    strategy = EvolutionStrategy(20_000, 0.01)
    half = torch.randn(10_000, 3, generator=torch.Generator().manual_seed(0))
    noise = torch.cat([half, -half])
    fitness = -(PHI + 0.01 * noise).square().sum(1).double()
    slope = strategy.gradient(fitness, [noise])[0]
    assert torch.allclose(slope / slope.norm(), -PHI / PHI.norm(), atol=0.02)
    assert torch.equal(slope, strategy.gradient((fitness / 3).exp(), [noise])[0])


def test_ranks() -> None:
    assert centred_ranks(torch.tensor([1.0, 5.0, 2.0])).tolist() == [-0.5, 0.5, 0.0]
    assert centred_ranks(torch.tensor([2.0, 2.0, 1.0, 7.0, 2.0])).tolist() == [0.0, 0.0, -0.5, 0.5, 0.0]
    assert centred_ranks(torch.full((4,), 3.0)).tolist() == [0.0] * 4
    assert centred_ranks(torch.tensor([torch.nan, 1.0, -torch.inf, 0.0])).tolist() == pytest.approx(
        [-1 / 3, 1 / 2, -1 / 3, 1 / 6]
    )


def test_equal_fitness_says_nothing() -> None:
    """Where nobody is fitter than anybody else, the order in which they stand is no reason to move."""
    strategy = EvolutionStrategy(8, 0.1)
    noise = strategy.noise([PHI], 0, 0)
    assert torch.equal(strategy.gradient(torch.full((8,), 0.7), noise)[0], torch.zeros(3))


def test_noise_is_a_function_of_seed_generation_and_pair() -> None:
    strategy, like = EvolutionStrategy(6, 0.1), [torch.zeros(2, 2), torch.zeros(3, dtype=torch.float64)]
    torch.manual_seed(0)
    first = strategy.noise(like, seed=1, generation=2)
    state = torch.random.get_rng_state()
    torch.manual_seed(5)
    again = strategy.noise(like, seed=1, generation=2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    alone = pair_noise(like, 1, 2, pair=2)
    assert all(torch.equal(a[2], b) and torch.equal(a[5], -b) for a, b in zip(first, alone, strict=True))
    assert first[1].dtype == torch.float64
    others = [strategy.noise(like, 1, 3), strategy.noise(like, 2, 2)]
    assert not any(torch.equal(first[0], other[0]) for other in others)
    torch.manual_seed(0)
    assert torch.equal(torch.random.get_rng_state(), state), "global states stay untouched"
    stacked = torch.stack([pair_noise([torch.zeros(4)], 0, 0, pair)[0] for pair in range(2000)])
    assert torch.allclose(stacked.T @ stacked / 2000, torch.eye(4), atol=0.12)


def test_a_population_of_modules_at_once() -> None:
    net, x = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), torch.randn(5, 2)
    strategy = EvolutionStrategy(4, 0.5)
    names, parameters = zip(*net.named_parameters(), strict=True)
    people = strategy.people(parameters, strategy.noise(parameters, 0, 0))

    def fitness(own: dict[str, Tensor]) -> Tensor:
        return functional_call(net, own, (x,)).mean()

    found = population_fitness(fitness, dict(zip(names, people, strict=True)))
    assert not found.requires_grad
    for person in range(4):
        net.load_state_dict({name: value[person] for name, value in zip(names, people, strict=True)})
        assert found[person].item() == pytest.approx(net(x).mean().item(), rel=1e-5)
    looped = population_fitness(fitness, dict(zip(names, people, strict=True)), over="loop")
    assert torch.allclose(found, looped, rtol=1e-5)


def test_what_an_optimiser_descends() -> None:
    parameters, slopes = [PHI.clone().requires_grad_(), torch.ones(2, 2).requires_grad_()], [PHI * 2, torch.eye(2)]
    loss = surrogate(parameters, slopes)
    loss.backward()
    assert loss.item() == 0
    assert all(torch.equal(p.grad, -slope) for p, slope in zip(parameters, slopes, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((5, 0.1), "population=5 must be even and at least 2"),
        ((0, 0.1), "population=0 must be even"),
        ((4, 0.0), "sigma=0.0 above 0"),
        ((4, float("nan")), "sigma=nan above 0"),
        ((4, 0.1, "rank"), "shaping='rank' is unknown.*ranks"),
    ],
)
def test_mistakes(settings: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EvolutionStrategy(*settings)


def test_fitness_of_another_population() -> None:
    strategy = EvolutionStrategy(4, 0.1)
    with pytest.raises(ConfigError, match=r"\(3,\) is not of 4 individuals"):
        strategy.gradient(torch.zeros(3), strategy.noise([PHI], 0, 0))
