"""Baldwin: evolution finds initial weights and step sizes; what is learned in a lifetime is not inherited.

    fitness(theta, alpha) = - mean_i L_i(U^k_alpha(theta; D_i); D'_i)      counted after learning, selected by it
    individuals (theta, log alpha) + sigma eps, the gradient of their fitness as in `mrt.optim.evolution`

Fernando et al. 2018, 1806.07917, "Meta-learning by the Baldwin effect": no gradient passes through learning, so nothing
that is differentiated needs to be differentiable twice.

Deviations: the paper's microbial genetic algorithm copies winners; here an evolution strategy with antithetic noise and
centred ranks (Salimans et al. 2017, 1703.03864) moves one mean genome, whose steps the optimiser of the arguments
takes. One step size for every tensor instead of one for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from classic_metarl.inner.gradient_steps import GradientSteps, Theta, Tree, parameters_of, rates_like
from classic_metarl.trainers.few_shot import FewShot, FewShotConfig, FewShotTrainer, MetaLearner, Set, inner_loop
from mrt.optim.evolution import EvolutionStrategy, population_fitness, surrogate
from mrt.training.collection import Batch


@dataclass
class BaldwinConfig(FewShotConfig):
    """Arguments of `BaldwinTrainer`; `per_device_train_batch_size` tasks are lived through by every individual."""

    population: int = field(default=64, metadata={"help": "individuals of a generation, in antithetic pairs"})
    sigma: float = field(default=0.02, metadata={"help": "standard deviation of a mutation"})

    def __post_init__(self) -> None:
        EvolutionStrategy(self.population, self.sigma)  # says what is wrong with them
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
    _generations = (-1, 0)  # the step of the outer loop, and how many generations it has had

    @classmethod
    def args_class(cls) -> type:
        return BaldwinConfig

    @classmethod
    def build(cls, family: FewShot, args: Any) -> Genome:
        net = family.network(args.hidden, args.activation)
        rates = rates_like({n: p.detach() for n, p in net.named_parameters()}, args.inner_rate, "tensor")
        logs = {name: rate.log() for name, rate in rates.items()}
        return Genome(net, family, inner_loop(net, family, args, "first"), [logs])

    @property
    def strategy(self) -> EvolutionStrategy:
        """Antithetic pairs and centred ranks."""
        return EvolutionStrategy(self.args.population, self.args.sigma)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """A loss whose gradient is minus the strategy's step; its value is the mean loss of the population.

        Every process draws the same population and judges it on tasks of its own; the mean over processes counts.
        """
        parts, strategy = [*genes_of(self.model).values()], self.strategy
        with torch.no_grad():
            noise = strategy.noise(parts, self.args.seed, self._next_generation())
            lost = lifetime_losses(self.model, strategy.people(parts, noise), *self.sets(batch.trials))
            lost = self._mean_over_ranks(lost)
            step = strategy.gradient(-lost, noise)
        self.log_metric("population/best", float(lost.nan_to_num(torch.inf).min()))
        return {"policy": surrogate(parts, step) + lost[lost.isfinite()].mean()}

    def _next_generation(self) -> int:
        """Its number; a step of several updates, or of accumulated batches, has several generations."""
        step, count = self.state.global_step, self._generations[1]
        self._generations = (step, count + 1 if step == self._generations[0] else 1)
        return step * self.args.updates_per_step * self.args.gradient_accumulation_steps + self._generations[1] - 1


def genes_of(genome: Genome) -> Tree:
    """What evolves: the parameters that are not frozen."""
    return {name: value for name, value in genome.named_parameters() if value.requires_grad}


def lifetime_losses(genome: Genome, people: Sequence[Tensor], stages: Sequence[Set], query: Set) -> Tensor:
    """(P,) mean loss after learning of every individual, whose genes are (P, ...) in the order of `genes_of`.

    Every individual learns all M tasks. Where tasks are folded, P M learners are one batch; else the individuals are
    mapped over (`vmap`) or live one after another (`loop`).
    """
    size, tasks = len(people[0]), len(query[0])
    genes = dict(zip(genes_of(genome), people, strict=True))
    if genome.steps.over != "fold":
        return -population_fitness(
            lambda own: -functional_call(genome, own, (stages, query)).mean(), genes, genome.steps.over
        )
    rows: Tree = {name: value.repeat_interleave(tasks, 0) for name, value in genes.items()}
    base = parameters_of(genome.net)
    phi = {name: rows.get(f"net.{name}", value) for name, value in base.items()}
    steps: GradientSteps = genome.steps
    rates = {n: _columns(rows[f"rates.0.{n.replace('.', '/')}"].exp(), base[n].ndim) for n in base}
    theta = Theta(base, [rates])
    for data in stages:
        phi = steps.adapt(theta, phi, tuple(part.repeat(size, *(1,) * (part.ndim - 1)) for part in data))
    x, y = (part.repeat(size, *(1,) * (part.ndim - 1)) for part in query)
    return genome.family.losses(genome.predict(phi, x), y).mean(-1).view(size, tasks).mean(1)


def _columns(value: Tensor, ndim: int) -> Tensor:
    return value.view(-1, *(1,) * ndim)
