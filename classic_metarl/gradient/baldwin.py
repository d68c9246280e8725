"""Baldwin: evolution finds initial weights and step sizes; what is learned in a lifetime is not inherited.

    fitness(theta, alpha) = - mean_i L_i(U^k_alpha(theta; D_i); D'_i)      counted after learning, selected by it
    g = (1 / (P sigma)) sum_p shaped rank(fitness_p) eps_p                 P individuals (theta, log alpha) + sigma eps

Fernando et al. 2018, 1806.07917, "Meta-learning by the Baldwin effect": no gradient passes through learning, so nothing
that is differentiated needs to be differentiable twice.

Deviations: the paper's microbial genetic algorithm copies winners; here an evolution strategy with antithetic noise and
centred ranks (Salimans et al. 2017, 1703.03864) moves one mean genome, whose steps the optimiser of the arguments
takes. One step size for every tensor instead of one for all. Individuals and tasks are folded into one batch of
learners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from classic_metarl.inner.gradient_steps import GradientSteps, Theta, Tree, parameters_of, rates_like
from classic_metarl.trainers.few_shot import FewShot, FewShotConfig, FewShotTrainer, MetaLearner, Set, inner_loop
from mrt.errors import ConfigError
from mrt.tasks import generator
from mrt.trials import Trials


@dataclass
class BaldwinConfig(FewShotConfig):
    """Arguments of `BaldwinTrainer`; `per_device_train_batch_size` tasks are lived through by every individual."""

    population: int = field(default=64, metadata={"help": "individuals of a generation, in antithetic pairs"})
    sigma: float = field(default=0.02, metadata={"help": "standard deviation of a mutation"})

    def __post_init__(self) -> None:
        if self.population < 2 or self.population % 2 or self.sigma <= 0:
            raise ConfigError(f"population={self.population} is to be even and at least 2, sigma={self.sigma} above 0")
        super().__post_init__()


class Genome(MetaLearner):
    """Initial weights and the logarithms of the step sizes, `rates` of `MetaLearner`."""

    @property
    def theta(self) -> Theta:
        """Weights, and step sizes that are positive."""
        logs = super().theta
        return Theta(logs.parameters, [{name: rate.exp() for name, rate in tree.items()} for tree in logs.rates])


class BaldwinTrainer(FewShotTrainer):
    """Evolution with learning inside a lifetime."""

    args: BaldwinConfig
    model: Genome

    @classmethod
    def args_class(cls) -> type:
        return BaldwinConfig

    @classmethod
    def build(cls, family: FewShot, args: Any) -> Genome:
        if args.over != "fold":
            raise ConfigError(f"over={args.over!r}: individuals and tasks are folded together here (over: fold)")
        net = family.network(args.hidden, args.activation)
        rates = rates_like({n: p.detach() for n, p in net.named_parameters()}, args.inner_rate, "tensor")
        logs = {name: rate.log() for name, rate in rates.items()}
        return Genome(net, family, inner_loop(net, family, args, "first"), [logs])

    def losses(self, trials: Trials, weights: Tensor) -> dict[str, Tensor]:
        """A loss whose gradient is minus the strategy's step; its value is the mean loss of the population."""
        genome = self.model
        parts = [*genome.parameters()]
        source = generator(self.args.seed, self.state.global_step)
        half = [torch.randn(self.args.population // 2, *p.shape, generator=source).to(p.device) for p in parts]
        noise = [torch.cat([part, -part]) for part in half]
        with torch.no_grad():
            people = [p + self.args.sigma * eps for p, eps in zip(parts, noise, strict=True)]
            stages, query = self.sets(trials)
            lost = lifetime_losses(genome, people, stages, query)
            slopes = strategy_gradient(-lost, noise, self.args.sigma)
        self.log_metric("population/best", float(lost.min()))
        surrogate = sum(((p - p.detach()) * -slope).sum() for p, slope in zip(parts, slopes, strict=True))
        return {"policy": surrogate + lost.mean()}


def strategy_gradient(fitness: Tensor, noise: Sequence[Tensor], sigma: float) -> list[Tensor]:
    """An estimate of the gradient of the mean fitness from P individuals with mutations `noise` (P, ...), up to the
    shaping: fitness (P,) counts by its rank, spread over [-1/2, 1/2].
    """
    size = len(fitness)
    rank = torch.empty_like(fitness)
    rank[fitness.argsort()] = torch.linspace(-0.5, 0.5, size, dtype=fitness.dtype, device=fitness.device)
    return [torch.einsum("p,p...->...", rank, eps) / (size * sigma) for eps in noise]


def lifetime_losses(genome: Genome, people: Sequence[Tensor], stages: Sequence[Set], query: Set) -> Tensor:
    """(P,) mean loss after learning of every individual, whose genes are (P, ...) in the order of `parameters()`.

    Every individual learns all M tasks; P M learners are one batch.
    """
    size, tasks = len(people[0]), len(query[0])
    genes = dict(zip((name for name, _ in genome.named_parameters()), people, strict=True))
    rows: Tree = {name: value.repeat_interleave(tasks, 0) for name, value in genes.items()}
    base = parameters_of(genome.net)
    phi = {name: rows[f"net.{name}"] for name in base}
    steps: GradientSteps = genome.steps
    rates = {n: _columns(rows[f"rates.0.{n.replace('.', '/')}"].exp(), base[n].ndim) for n in base}
    theta = Theta(base, [rates])
    for data in stages:
        phi = steps.adapt(theta, phi, tuple(part.repeat(size, *(1,) * (part.ndim - 1)) for part in data))
    x, y = (part.repeat(size, *(1,) * (part.ndim - 1)) for part in query)
    return genome.family.losses(genome.predict(phi, x), y).mean(-1).view(size, tasks).mean(1)


def _columns(value: Tensor, ndim: int) -> Tensor:
    return value.view(-1, *(1,) * ndim)
