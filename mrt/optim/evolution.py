"""Evolution strategies: the gradient of the mean fitness around a point, from fitness values alone.

    F_sigma(phi) = E_eps F(phi + sigma eps)        grad F_sigma = E_eps F(phi + sigma eps) eps / sigma
    g = (1 / (P sigma)) sum_p w(F_p) eps_p         eps_p and -eps_p in pairs; w ranks the fitness, or leaves it raw

Salimans et al. 2017, 1703.03864: antithetic pairs and centred ranks. Nothing is differentiated, so fitness may count
whatever can be measured: learning, episodes, a population. g may be assigned to `.grad` (with a minus: optimisers
descend), become a loss (`surrogate`), or move the parameters in `TrialTrainer.update`.

Letters: P individuals, the first half of them phi + sigma eps, the second half their mirror images in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mrt.errors import ConfigError, nearest
from mrt.tasks import generator

Shaping = Literal["ranks", "raw"]
Fitness = Callable[[dict[str, Tensor]], Tensor]  # the parameters of one individual, by name -> a scalar to maximise


@dataclass(frozen=True)
class EvolutionStrategy:
    """How a population is drawn around a point and what its fitness says about the slope there.

    Args:
        population: P, even. sigma: the standard deviation of a mutation.
        shaping: `ranks` counts fitness by its rank, which no outlier and no monotone map of the fitness changes;
            `raw` counts it as it is and estimates the gradient of F_sigma itself, without bias.

    Raises:
        ConfigError: at construction, for a population that is odd or below 2, sigma of 0 or less, unknown shaping.
    """

    population: int = 64
    sigma: float = 0.02
    shaping: Shaping = "ranks"

    def __post_init__(self) -> None:
        if self.population < 2 or self.population % 2 or not self.sigma > 0:
            raise ConfigError(f"population={self.population} must be even and at least 2, sigma={self.sigma} above 0")
        if self.shaping not in ("ranks", "raw"):
            raise ConfigError(f"shaping={self.shaping!r} is unknown; {nearest(str(self.shaping), ('ranks', 'raw'))}")

    def noise(self, like: Sequence[Tensor], seed: int, generation: int) -> list[Tensor]:
        """The mutations (P, ...) of a generation, one tensor for each of `like`, on its device.

        A pure function of (seed, generation, pair): a process that holds the fitness values and knows the indices
        draws the same noise again, so that no noise is ever sent.
        """
        half = [pair_noise(like, seed, generation, pair) for pair in range(self.population // 2)]
        return [torch.cat([rows, -rows]) for rows in (torch.stack(each) for each in zip(*half, strict=True))]

    def people(self, parameters: Sequence[Tensor], noise: Sequence[Tensor]) -> list[Tensor]:
        """The individuals phi + sigma eps (P, ...), in the order of `noise`."""
        return [value.detach() + self.sigma * eps for value, eps in zip(parameters, noise, strict=True)]

    def gradient(self, fitness: Tensor, noise: Sequence[Tensor]) -> list[Tensor]:
        """g (...), the direction in which fitness (P,) grows, one tensor for each of `noise` (P, ...).

        Raises:
            ConfigError: where `fitness` is not of P individuals.
        """
        if fitness.shape != (self.population,):
            raise ConfigError(f"fitness {tuple(fitness.shape)} is not of {self.population} individuals")
        weight = centred_ranks(fitness) if self.shaping == "ranks" else fitness
        # By pairs, so that what both mirror images share cancels exactly and not only up to rounding.
        plus, minus = weight.chunk(2)
        return [
            torch.einsum("p,p...->...", (plus - minus).to(eps), eps[: len(plus)]) / (self.population * self.sigma)
            for eps in noise
        ]


def pair_noise(like: Sequence[Tensor], seed: int, generation: int, pair: int) -> list[Tensor]:
    """eps of one pair: standard normal tensors in the shapes of `like`, drawn on the CPU and then moved."""
    source = generator(seed, generation, pair)
    flat = torch.randn(sum(value.numel() for value in like), generator=source)
    parts = flat.split([value.numel() for value in like])
    return [part.view(value.shape).to(value) for part, value in zip(parts, like, strict=True)]


def centred_ranks(fitness: Tensor) -> Tensor:
    """(P,) ranks spread over [-1/2, 1/2], the best at 1/2; equal fitness shares the mean of its ranks.

    What is not a number ranks last: an individual that diverged is not the fittest.
    """
    shown = fitness.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    _, place, count = shown.unique(return_inverse=True, return_counts=True)  # sorted, so that places are in order
    middle = count.cumsum(0) - (count + 1) / 2
    return (middle / max(len(fitness) - 1, 1) - 0.5).to(fitness.dtype)[place]


def population_fitness(
    fitness: Fitness, people: Mapping[str, Tensor], over: Literal["vmap", "loop"] = "vmap"
) -> Tensor:
    """(P,) fitness of every individual, whose parameters are (P, ...) by name, without gradients.

    Args:
        fitness: of one individual, with `torch.func.functional_call` where it is a module's.
        over: `vmap` evaluates all of them at once; `loop` one after another, for modules without a rule under vmap
            (GRU, LSTM) and for fitness that leaves PyTorch.
    """
    tree = dict(people)
    with torch.no_grad():
        if over == "vmap":
            return torch.vmap(fitness, randomness="different")(tree)
        size = len(next(iter(tree.values())))
        return torch.stack([fitness({name: value[row] for name, value in tree.items()}) for row in range(size)])


def surrogate(parameters: Sequence[Tensor], gradient: Sequence[Tensor]) -> Tensor:
    """A loss of value 0 whose gradient is minus `gradient`: what an optimiser descends to raise the fitness."""
    pairs = zip(parameters, gradient, strict=True)
    return torch.stack([((value - value.detach()) * -slope).sum() for value, slope in pairs]).sum()
