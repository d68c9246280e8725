"""POET, the paired open-ended trailblazer (Wang, Lehman, Clune and Stanley 2019, arXiv 1901.01753): tasks evolve beside
the agents that solve them.

A niche is a task E with an agent theta of its own. In every iteration

    reproduce   every so many iterations: tasks whose agent is good enough have children, small changes of them. A child
                is admitted if the best agent there is neither too bad nor too good at it (minimal criterion), the most
                novel first: by the mean distance to the nearest tasks ever admitted. Beyond the capacity the oldest go
    optimise    every agent takes one step of evolution strategies on its task
    transfer    every so many iterations: an agent of another niche, as it is or after one step on this task, replaces
                one that it beats

so that what was learned on one task can be the stepping stone to another.

Deviations: the transfer on admission compares agents as they are; a proposal is one step, as in the paper, from the
present agents. Fitness of one agent is the mean over the noise that `fitness` draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classic_metarl.task_distributions.niches import Fitness, Mutate, Niche, POETRules, Task, Theta
from mrt.control.envs import EnvTasks
from mrt.control.evolved import People, PlainPolicy
from mrt.control.interaction import play
from mrt.control.loading import FromRecipe
from mrt.errors import ConfigError
from mrt.optim.evolution import EvolutionStrategy
from mrt.runs.rundir import write_json
from mrt.trainer import TrialConfig, TrialTrainer


class POET:
    """The population of niches. Everything random follows from the seed and the iteration.

    Args:
        first: the task that it begins with, and the agent.
        ranges: {parameter: (lowest, highest)}: distances between tasks are in these units.
    """

    def __init__(
        self,
        first: tuple[Task, Theta],
        fitness: Fitness,
        mutate: Mutate,
        rules: POETRules,
        *,
        strategy: EvolutionStrategy,
        ranges: Mapping[str, tuple[float, float]],
        seed: int = 0,
    ) -> None:
        self.fitness, self.mutate, self.rules = fitness, mutate, rules
        self.strategy, self.ranges, self.seed = strategy, dict(ranges), seed
        task, theta = first
        self.niches = [Niche(task, [value.clone() for value in theta], self.score(theta, task, 0))]
        self.archive = [self.place(task)]  # of every task that was ever admitted

    def step(self, iteration: int) -> None:
        """One iteration."""
        rules = self.rules
        if iteration and iteration % rules.reproduce_every == 0:
            self.reproduce(iteration)
        for niche in self.niches:
            niche.theta = self.improved(niche.theta, niche.task, niche.number, iteration)
            niche.score = self.score(niche.theta, niche.task, iteration)
        if iteration and iteration % rules.transfer_every == 0 and len(self.niches) > 1:
            self.transfer(iteration)

    def score(self, theta: Theta, task: Task, seed: int) -> float:
        """Of one agent on one task."""
        return float(self.scores([theta], task, seed)[0])

    def scores(self, agents: Sequence[Theta], task: Task, seed: int) -> Tensor:
        """(P,) of agents side by side on one task."""
        stacked = [torch.stack(parts) for parts in zip(*agents, strict=True)]
        return self.fitness(stacked, task, self.seed * 1_000_003 + seed)

    def improved(self, theta: Theta, task: Task, number: int, iteration: int) -> Theta:
        """The agent after one step on the task."""
        seed = self.seed * 1_000_003 + number
        return improved(theta, task, self.fitness, self.strategy, rate=self.rules.rate, seed=seed, iteration=iteration)

    def reproduce(self, iteration: int) -> None:
        """Children of the tasks that are solved well enough: those that are admitted become niches."""
        rules = self.rules
        parents = [niche for niche in self.niches if niche.score >= rules.good_enough]
        if not parents:
            return
        found = []
        for i in range(rules.children):
            parent = parents[i % len(parents)]
            task = self.mutate(parent.task, (self.seed * 100_003 + iteration) * 1_009 + i)
            scores = self.scores([niche.theta for niche in self.niches], task, iteration)
            best = int(scores.argmax())
            if rules.lowest <= float(scores[best]) <= rules.highest:
                found.append((self.novelty(task), i, Niche(task, [], float(scores[best]), parent=parent.number), best))
        number = 1 + max(niche.number for niche in self.niches)
        for _, _, child, best in sorted(found, key=lambda one: (-one[0], one[1]))[: rules.admitted]:
            child.theta = [value.clone() for value in self.niches[best].theta]
            child.number, child.born, child.admitted_at = max(number, len(self.archive)), iteration, child.score
            number = child.number + 1
            self.archive.append(self.place(child.task))
            self.niches.append(child)
        del self.niches[: max(0, len(self.niches) - rules.capacity)]

    def transfer(self, iteration: int) -> None:
        """Agents of other niches, and what one step on this task makes of them, replace those that they beat."""
        before = [(niche.number, [value.clone() for value in niche.theta]) for niche in self.niches]
        for niche in self.niches:
            comers = []
            for number, theta in before:
                if number != niche.number:
                    comers += [(number, theta), (number, self.improved(theta, niche.task, niche.number, iteration))]
            scores = self.scores([theta for _, theta in comers], niche.task, iteration)
            best = int(scores.argmax())
            if float(scores[best]) > niche.score:
                niche.replaced.append((iteration, comers[best][0], niche.score, float(scores[best])))
                niche.theta, niche.score = [value.clone() for value in comers[best][1]], float(scores[best])

    def place(self, task: Task) -> Tensor:
        """(D,) where a task lies, each parameter in units of its range."""
        parts = [
            ((task[name] - low) / (high - low)).flatten().double() for name, (low, high) in sorted(self.ranges.items())
        ]
        return torch.cat(parts)

    def novelty(self, task: Task) -> float:
        """Mean distance to the nearest tasks that were ever admitted."""
        away = torch.stack([(self.place(task) - other).norm() for other in self.archive]).sort().values
        return float(away[: self.rules.nearest].mean())


def improved(
    theta: Theta, task: Task, fitness: Fitness, strategy: EvolutionStrategy, *, rate: float, seed: int, iteration: int
) -> Theta:
    """The agent after one step of evolution strategies on a task."""
    noise = strategy.noise(theta, seed, iteration)
    gradient = strategy.gradient(fitness(strategy.people(theta, noise), task, seed + iteration), noise)
    return [value + rate * slope for value, slope in zip(theta, gradient, strict=True)]


@dataclass
class POETConfig(TrialConfig):
    """Arguments of a `POETTrainer`; `max_steps` counts iterations, a step of POET each."""

    population: int = field(default=64, metadata={"help": "individuals of evolution strategies"})
    sigma: float = field(default=0.1, metadata={"help": "deviation of their mutations"})
    change: float = field(
        default=0.15, metadata={"help": "how far a child's parameters move, as a share of their ranges"}
    )
    first: float = field(default=0.0, metadata={"help": "where in their ranges the parameters of the first task are"})
    niches: dict[str, Any] = field(default_factory=dict, metadata={"help": "fields of `POETRules` laid over its own"})

    def __post_init__(self) -> None:
        self.rules()
        super().__post_init__()

    def rules(self) -> POETRules:
        """The rules that these arguments describe.

        Raises:
            ConfigError: for one that there is none of.
        """
        try:
            return POETRules(**self.niches)
        except TypeError as error:
            raise ConfigError(f"args.niches: {error}") from error


class POETTrainer(FromRecipe, TrialTrainer):
    """An iteration an update, on the tasks of an environment whose parameters have ranges (`hurdles`, `cart-pole` has
    discrete actions and is refused). `niches.json` in the run holds every niche; the model is the agent of the task
    that lies farthest from the first one.

    Raises:
        ConfigError: where tasks have no continuous parameters.
    """

    args: POETConfig
    tasks: EnvTasks
    policy_class = PlainPolicy

    def __init__(self, model: Any, args: POETConfig, tasks: EnvTasks, **kwargs: Any) -> None:
        super().__init__(model, args, tasks, **kwargs)
        ranges = tasks.env.task_ranges()
        if not ranges:
            raise ConfigError(f"tasks of '{tasks.name}' have no continuous parameters to evolve")
        drawn = tasks.batch(args.seed, [0])
        first = {
            name: torch.full_like(drawn[name], low + args.first * (high - low)) for name, (low, high) in ranges.items()
        }
        theta = [parameter.detach().clone() for parameter in model.parameters()]
        strategy = EvolutionStrategy(args.population, args.sigma)
        rules = args.rules()
        self.poet = POET(
            ({**drawn, **first}, theta),
            self.fitness,
            self.mutated,
            rules,
            strategy=strategy,
            ranges=ranges,
            seed=args.seed,
        )
        self.register_state("niches", (self._niches, self._set_niches))

    @classmethod
    def args_class(cls) -> type:
        return POETConfig

    def fitness(self, people: Theta, task: Task, seed: int) -> Tensor:
        """(P,) return of an episode on the task; the same start for all."""
        count = len(people[0])
        params = {name: value.expand(count, *value.shape[1:]) for name, value in task.items()}
        found = play(self.tasks.env.clone(), People(people), params, seed=seed % 2**31).sum(1).float()
        self.cost.add(env_steps=count * self.tasks.env.spec.trial_steps)
        return found

    def mutated(self, task: Task, seed: int) -> Task:
        """A task a little different."""
        return self.tasks.mutate(task, seed % 2**31, [0], self.args.change)

    def next_batch(self, indices: Sequence[int]) -> int:
        """The number of the iteration."""
        return int(self.state.global_step)

    def update(self, batch: int) -> bool:
        """One iteration of POET."""
        self.poet.step(batch)
        niches = self.poet.niches
        best = max(niches, key=lambda niche: (niche.score >= self.poet.rules.good_enough, self.distance(niche)))
        with torch.no_grad():
            for parameter, value in zip(self.unwrapped.parameters(), best.theta, strict=True):
                parameter.copy_(value)
        solved = [self.distance(niche) for niche in niches if niche.score >= self.poet.rules.good_enough]
        self.log_metric("niches", len(niches))
        self.log_metric("score/mean", sum(niche.score for niche in niches) / len(niches))
        self.log_metric("farthest_solved", max(solved, default=0.0))
        self.log_metric("admitted", len(self.poet.archive))
        self.log_total("cost/env_steps", self.cost.sum_up().get("env_steps", 0.0))
        if self.args.should_save:
            write_json(Path(str(self.args.output_dir)) / "niches.json", {"niches": self._table()})
        return True

    def distance(self, niche: Niche) -> float:
        """Of its task from the first one, in ranges."""
        return float((self.poet.place(niche.task) - self.poet.archive[0]).norm())

    def _table(self) -> list[dict[str, Any]]:
        def row(niche: Niche) -> dict[str, Any]:
            task = {name: niche.task[name].flatten().tolist() for name in self.poet.ranges}
            facts = {"number": niche.number, "parent": niche.parent, "born": niche.born, "score": niche.score}
            return {**facts, "task": task, "transfers": [list(one) for one in niche.replaced]}

        return [row(niche) for niche in self.poet.niches]

    def _niches(self) -> dict[str, Any]:
        return {"niches": [vars(niche).copy() for niche in self.poet.niches], "archive": list(self.poet.archive)}

    def _set_niches(self, state: Mapping[str, Any]) -> None:
        self.poet.niches = [
            Niche(**{**one, "replaced": [tuple(x) for x in one["replaced"]]}) for one in state["niches"]
        ]
        self.poet.archive = list(state["archive"])
