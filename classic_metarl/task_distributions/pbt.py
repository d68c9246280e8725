"""Population-based training (Jaderberg et al. 2017, arXiv 1711.09846): hyperparameters that change while they train.

P members train side by side, each with hyperparameters h_i of its own. Every generation

    exploit     a member among the worst share takes the weights, and the hyperparameters, of one among the best
    explore     hyperparameters that were taken change: each times one of two factors, or drawn anew

so that what is found is a schedule, not a value. With a share of 0 nobody takes anything: random search at equal steps.

    trainer: classic_metarl.task_distributions.pbt:PBTTrainer
    args: {recipe: control/rl2-two-arms, ranges: {args.learning_rate: [1e-4, 1e-2]}, members: 8, max_steps: 10}

A step of the outer loop is a generation; its members are jobs of `mrt.runs.population`, on processes or on Ray. The
model that is kept is the best member's of the last generation.

Deviations: generations are synchronous; optimisers begin anew in each, for a job goes on from saved weights.
"""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from mrt.control.agent import Agent
from mrt.errors import ConfigError, MRTError
from mrt.runs.population import Population, Result
from mrt.runs.recipe import Recipe, import_trainer, load_recipe
from mrt.runs.seeds import final_scores
from mrt.runs.workers import workers_at
from mrt.tasks import TaskDistribution
from mrt.trainer import TrialConfig, TrialTrainer

Hyper = dict[str, float]


@dataclass(frozen=True)
class PBT:
    """How members take from one another.

    Args:
        ranges: {hyperparameter: (lowest, highest)}, above 0; drawn uniformly in the logarithm.
        share: of the members that take, and of those that are taken from.
        factors: what a hyperparameter that was taken is multiplied by, one or the other.
        resample: chance that it is drawn anew instead.
        inherit: whether hyperparameters are taken with the weights, or weights alone.

    Raises:
        ConfigError: for a share above a half, and ranges that are empty or not above 0.
    """

    ranges: Mapping[str, tuple[float, float]]
    share: float = 0.25
    factors: tuple[float, float] = (0.8, 1.2)
    resample: float = 0.25
    inherit: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 0.5:
            raise ConfigError(f"share={self.share} must be from 0 to 0.5: nobody takes from itself")
        for name, (low, high) in self.ranges.items():
            if not 0 < low < high:
                raise ConfigError(f"ranges: {name} [{low}, {high}] must be above 0, the lowest first")

    def draw(self, rng: random.Random) -> Hyper:
        """Hyperparameters of a member that begins."""
        return {name: _log_uniform(low, high, rng) for name, (low, high) in self.ranges.items()}

    def exploit(self, scores: Sequence[float], rng: random.Random) -> list[int]:
        """Whose weights each member goes on with: its own, or those of one among the best. Higher scores are better;
        a member without one (NaN) takes.
        """
        count = len(scores)
        order = sorted(range(count), key=lambda i: -math.inf if math.isnan(scores[i]) else scores[i])
        taking = math.ceil(self.share * count) if self.share else 0
        lost = {i for i in range(count) if math.isnan(scores[i])}
        best = [i for i in order[count - max(taking, 1) :] if i not in lost]
        takers = (set(order[:taking]) | lost) - set(best)
        return [rng.choice(best) if i in takers and best else i for i in range(count)]

    def explore(self, hyper: Mapping[str, float], rng: random.Random) -> Hyper:
        """Hyperparameters that were taken, changed; within their ranges."""
        found = {}
        for name, (low, high) in self.ranges.items():
            value = hyper[name] * rng.choice(self.factors)
            found[name] = _log_uniform(low, high, rng) if rng.random() < self.resample else min(max(value, low), high)
        return found

    def next_generation(
        self, hypers: Sequence[Hyper], scores: Sequence[float], rng: random.Random
    ) -> tuple[list[int], list[Hyper]]:
        """(whose weights, with which hyperparameters) each member goes on."""
        sources = self.exploit(scores, rng)
        new = []
        for i, source in enumerate(sources):
            taken = hypers[source if self.inherit else i]
            new.append(dict(hypers[i]) if source == i else self.explore(taken, rng) if self.inherit else dict(taken))
        return sources, new


def _log_uniform(low: float, high: float, rng: random.Random) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


@dataclass
class PBTConfig(TrialConfig):
    """Arguments of a `PBTTrainer`; `max_steps` counts generations.

    Raises:
        ConfigError: without a recipe or ranges, and for a population below 2.
    """

    recipe: str = field(default="", metadata={"help": "what every member trains"})
    overrides: list[str] = field(default_factory=list, metadata={"help": "key=value laid over it"})
    ranges: dict[str, Any] = field(default_factory=dict, metadata={"help": "{key of the recipe: [lowest, highest]}"})
    members: int = field(default=8, metadata={"help": "members of the population"})
    steps: int = field(default=50, metadata={"help": "steps of a member's outer loop in a generation"})
    score: str = field(default="reward", metadata={"help": "logged metric, the higher the better"})
    share: float = field(default=0.25, metadata={"help": "of the members that take from as many of the best; 0: none"})
    factors: list[float] = field(default_factory=lambda: [0.8, 1.2], metadata={"help": "of a change"})
    resample: float = field(default=0.25, metadata={"help": "chance that a taken hyperparameter is drawn anew"})
    inherit: bool = field(default=True, metadata={"help": "hyperparameters are taken with the weights"})
    workers: int = field(default=2, metadata={"help": "members that train at a time"})
    ray: str = field(default="", metadata={"help": "Ray cluster that they train on: an address, auto or local"})

    def __post_init__(self) -> None:
        if not self.recipe or not self.ranges:
            raise ConfigError("a population needs args.recipe and args.ranges: {args.learning_rate: [1.0e-4, 1.0e-2]}")
        if self.members < 2 or self.steps < 1:
            raise ConfigError(f"members={self.members} must be at least 2, steps={self.steps} at least 1")
        self.pbt()
        super().__post_init__()

    def pbt(self) -> PBT:
        """The rule of these arguments."""
        ranges = {name: (float(pair[0]), float(pair[1])) for name, pair in self.ranges.items()}
        factors = (float(self.factors[0]), float(self.factors[1]))
        return PBT(ranges, self.share, factors, self.resample, self.inherit)

    def member(self) -> Recipe:
        """What a member trains, with the middle of every range.

        Raises:
            ConfigError: as `load_recipe`; a hyperparameter that the recipe does not have is named.
        """
        middle = [f"{name}={math.sqrt(float(low) * float(high))!r}" for name, (low, high) in self.ranges.items()]
        return load_recipe(self.recipe, [*self.overrides, f"args.max_steps={self.steps}", *middle])


class PBTTrainer(TrialTrainer):
    """A generation an update.

    Args:
        model: of a member; it holds the best member's weights after each generation.
    """

    args: PBTConfig

    def __init__(self, model: Any, args: PBTConfig, tasks: TaskDistribution, **kwargs: Any) -> None:
        super().__init__(model, args, tasks, **kwargs)
        rng = random.Random(args.seed)
        self.hypers = [args.pbt().draw(rng) for _ in range(args.members)]
        self.models = [""] * args.members  # what each member goes on from
        self.register_state("population", (self._population, self._set_population))

    @classmethod
    def args_class(cls) -> type:
        return PBTConfig

    @classmethod
    def from_recipe(cls, recipe: Recipe, output_dir: Path) -> PBTTrainer:
        """The trainer of a recipe whose `args.recipe` says what is trained."""
        args = recipe.build_args(PBTConfig, output_dir)
        with tempfile.TemporaryDirectory() as folder:
            inner = args.member()
            one = import_trainer(inner.trainer).from_recipe(inner, Path(folder))
        return cls(one.unwrapped, args, one.tasks)

    @classmethod
    def agent_of(cls, run: Path, recipe: Recipe) -> Agent:
        """The best member of the last generation."""
        inner = recipe.build_args(PBTConfig, run).member()
        trainer: Any = import_trainer(inner.trainer)
        return trainer.agent_of(run, inner)

    def next_batch(self, indices: Sequence[int]) -> int:
        """The number of the generation."""
        return int(self.state.global_step)

    def update(self, batch: int) -> bool:
        """Trains every member, lets the worst take from the best, keeps the best one's weights."""
        jobs = [self.job(i, batch) for i in range(self.args.members)]
        folder = Path(str(self.args.output_dir)) / "population"
        with Population(folder, workers_at(self.args.ray), self.args.workers) as population:
            results = population.map(jobs)
        scores = [self._score(result) for result in results]
        if all(map(math.isnan, scores)):
            raise MRTError(f"no member of generation {batch} could be trained: {results[0].message}")
        best = max(range(len(scores)), key=lambda i: -math.inf if math.isnan(scores[i]) else scores[i])
        self.unwrapped.load_state_dict(load_file(results[best].folder / "model" / "model.safetensors"))
        self._log(scores, best)
        sources, self.hypers = self.args.pbt().next_generation(
            self.hypers, scores, random.Random(f"{self.args.seed} {batch}")
        )
        self.models = [str(results[source].folder / "model") for source in sources]
        self.log_metric("taken", sum(source != i for i, source in enumerate(sources)))
        return True

    def job(self, member: int, generation: int) -> Recipe:
        """What a member trains in a generation: on tasks of its own, from the weights that it goes on with."""
        given = [f"{name}={value!r}" for name, value in self.hypers[member].items()]
        steps = f"args.max_steps={self.args.steps}"
        inner = load_recipe(self.args.recipe, [*self.args.overrides, steps, *given])
        out = Path(str(self.args.output_dir)) / "members" / f"{generation:03d}-{member:02d}"
        seed = self.args.seed * 100_000 + generation * self.args.members + member
        changed = replace(inner, output_dir=str(out), seed=seed)
        return replace(changed, model=self.models[member], policy={}) if self.models[member] else changed

    def _score(self, result: Result) -> float:
        return final_scores(result.folder).get(self.args.score, math.nan) if result.finished else math.nan

    def _log(self, scores: Sequence[float], best: int) -> None:
        known = [score for score in scores if not math.isnan(score)]
        self.log_metric(f"{self.args.score}/best", scores[best])
        self.log_metric(f"{self.args.score}/mean", sum(known) / len(known))
        for name in self.hypers[best]:
            self.log_metric(f"best/{name}", self.hypers[best][name])

    def _population(self) -> dict[str, Any]:
        return {"hypers": self.hypers, "models": self.models}

    def _set_population(self, state: Mapping[str, Any]) -> None:
        self.hypers, self.models = [dict(one) for one in state["hypers"]], list(state["models"])
