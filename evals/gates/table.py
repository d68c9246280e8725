"""What a gate is, and the ones that `table.yaml` lists."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

from evals.gates.code import code_hash
from evals.gates.configuration import defaults_of, measuring, plain, resolved
from evals.gates.measures import Score, control
from mrt.errors import ConfigError, nearest
from mrt.runs.recipe import Recipe, load_recipe
from mrt.runs.strict_yaml import parse_yaml

TABLE = Path(__file__).with_name("table.yaml")
SCHEMA_VERSION = 2
CHANCE_SE = 3.0
FEWEST_SEEDS = 3


@dataclass(frozen=True)
class Trivial:
    """The best baseline that needs no meta-learning: a stated `value`, or another `measure` of the same result."""

    name: str
    value: float | None = None
    measure: str = ""
    source: str = ""


@dataclass(frozen=True)
class Bar:
    """What passes: a mean inside `band` (None: no bound); mean - 2 SE above `above`; within 3 SE of the floor.

    `check` marks a bar on the setting (what is measured before adaptation): no baseline has to lie outside it.
    """

    band: tuple[float | None, float | None] = (None, None)
    above: float | None = None
    chance: bool = False
    check: bool = False

    def passed(self, mean: float, se: float, floor: float | None) -> bool:
        """Whether a mean with this error passes."""
        clear = self.above is None or mean - 2 * se > self.above
        return clear and self.holds_one(mean, se, floor)

    def holds_one(self, mean: float, se: float, floor: float | None) -> bool:
        """Whether a single seed is in the band: with its own error where chance is asked, and above `above` at all."""
        low, high = self.band
        inside = (low is None or mean >= low) and (high is None or mean <= high)
        random = not self.chance or (floor is not None and abs(mean - floor) <= CHANCE_SE * se)
        return inside and random and (self.above is None or mean > self.above)

    def excludes(self, trivial: float) -> bool:
        """Whether a baseline of this value could not pass: it lies outside the band, or not above `above`."""
        low, high = self.band
        outside = (low is not None and trivial < low) or (high is not None and trivial > high)
        return outside or (self.above is not None and trivial <= self.above)


@dataclass(frozen=True)
class Gate:
    """One system at one gate: a recipe, what is measured of the run, and what passes.

    `name` is its key in the table: T6-hard is the variant "hard" of T6, and is run with it. `beside` are recipes that
    the measurement trains itself.
    """

    name: str
    system: str
    title: str
    recipe: str
    overrides: tuple[str, ...]
    measures: tuple[str, ...]
    tasks: int
    bars: Mapping[str, Bar]
    paper: Mapping[str, float] = field(default_factory=dict)
    trivial: Mapping[str, Trivial] = field(default_factory=dict)
    negative_control: bool = False
    seeds: int = FEWEST_SEEDS
    tuning_seeds: tuple[int, ...] = ()
    function: str = ""  # module:function that measures; empty for policies of control
    greedy: bool = True  # False: a policy of control draws its actions, as in training
    measured: Mapping[str, Any] = field(default_factory=dict)  # options of the measured tasks, over the recipe's
    beside: tuple[str, ...] = ()

    @property
    def number(self) -> str:
        """The gate's own name: T6 of T6-hard."""
        return self.name.split("-")[0]

    @property
    def variant(self) -> str:
        """hard of T6-hard; empty for a gate that has one form only."""
        return self.name.partition("-")[2]

    def gate_seeds(self, number: int | None = None) -> list[int]:
        """The first `number` seeds (those that are asked for) on which nothing was tuned."""
        return list(islice((seed for seed in count() if seed not in self.tuning_seeds), number or self.seeds))

    def overrides_for(self, seed: int, run: Path) -> list[str]:
        """What is laid over the recipe for one seed."""
        return [*self.overrides, f"seed={seed}", f"output_dir={run}"]

    def load(self, seed: int, run: Path) -> Recipe:
        """The checked recipe of one seed."""
        return load_recipe(self.recipe, self.overrides_for(seed, run))

    def configuration(self, seed: int) -> dict[str, Any]:
        """What decides a result, every default resolved: the recipe, the recipes beside it, and the measurement."""
        function = measuring(self.function) if self.function else control
        recipes = {name: resolved(recipe) for name, recipe in self._recipes(seed).items()}
        return {"recipes": recipes, "measurement": self._measurement() | {"options": plain(defaults_of(function))}}

    def stated(self, seed: int) -> dict[str, Any]:
        """The part of `configuration` that the recipes and the table state: no default is in it."""
        recipes = {name: recipe.to_dict() for name, recipe in self._recipes(seed).items()}
        return {"recipes": recipes, "measurement": self._measurement()}

    def digest(self, seed: int) -> str:
        """The hash of `configuration`."""
        return _hash(self.configuration(seed))[:16]

    def code(self, measuring_too: bool = True) -> str:
        """The hash of the code that trains, and of the module that measures (`evals.gates.code`)."""
        specs = [recipe.trainer for recipe in self._recipes(0).values()]
        if measuring_too:
            specs.append(self.function or f"{control.__module__}:{control.__name__}")
        return code_hash({spec.split(":")[0] for spec in specs})

    def run_name(self, seed: int) -> str:
        """A folder's name: a run of another configuration or of other code lies elsewhere, so neither is measured by
        mistake; one that is only measured differently is the same.
        """
        trained = {"recipe": self.configuration(seed)["recipes"][""], "code": self.code(measuring_too=False)}
        return f"{Path(self.recipe).name}-{_hash(trained)[:8]}-seed{seed}"

    def score(self, run: Path, seed: int) -> dict[str, Score]:
        """Measures a trained run."""
        function = measuring(self.function) if self.function else partial(control, greedy=self.greedy)
        recipe = self.load(seed, run)
        return function(run, replace(recipe, tasks={**recipe.tasks, **self.measured}), self.tasks, self.measures)

    def _recipes(self, seed: int) -> dict[str, Recipe]:
        beside = {name: load_recipe(name, [f"seed={seed}"]) for name in self.beside}
        return {"": self.load(seed, Path("run")), **beside}

    def _measurement(self) -> dict[str, Any]:
        return {
            "measures": list(self.measures),
            "tasks": self.tasks,
            "function": self.function.split(":")[-1] or control.__name__,
            "greedy": self.greedy,
            "measured": plain(dict(self.measured)),
        }


def gates(names: Sequence[str] | None = None, systems: Sequence[str] | None = None) -> list[Gate]:
    """The gates called `names` (all of the table when left out), one entry a system.

    Raises:
        ConfigError: for a name or system that the table does not have.
    """
    table = parse_yaml(TABLE.read_text(encoding="utf-8"), TABLE.name)
    chosen = []
    for name in names or table:
        same = [key for key in table if name in (key, key.split("-")[0])]
        if not same:
            raise ConfigError(f"no gate '{name}'; {nearest(name, set(table))}")
        chosen += same
    found = [_gate(name, system, table[name]) for name in dict.fromkeys(chosen) for system in table[name]["systems"]]
    if systems:
        known = {gate.system for gate in found}
        for system in systems:
            if system not in known:
                raise ConfigError(f"no system '{system}' at these gates; {nearest(system, known)}")
        found = [gate for gate in found if gate.system in systems]
    return found


def _gate(name: str, system: str, entry: Mapping[str, Any]) -> Gate:
    own = entry["systems"][system]
    bars = {
        measure: Bar(
            tuple(bar.get("band", (None, None))), bar.get("above"), bar.get("chance", False), bar.get("check", False)
        )
        for measure, bar in entry["pass"].items()
    }
    gate = Gate(
        name=name,
        system=system,
        title=entry["title"],
        recipe=own["recipe"],
        overrides=tuple(own.get("overrides", ())),
        measures=tuple(entry.get("measures", entry["pass"])),
        tasks=entry["tasks"],
        bars=bars,
        paper=entry.get("paper", {}),
        trivial={measure: Trivial(**one) for measure, one in entry.get("trivial", {}).items()},
        negative_control=entry.get("negative_control", False),
        seeds=own.get("seeds", entry.get("seeds", FEWEST_SEEDS)),
        tuning_seeds=tuple(own.get("tuning_seeds", entry.get("tuning_seeds", ()))),
        function=entry.get("function", ""),
        greedy=entry.get("greedy", True),
        measured=own.get("measured", {}),
        beside=tuple(entry.get("beside", ())),
    )
    _check(gate)
    return gate


def _check(gate: Gate) -> None:
    """Raises ConfigError for a gate that could pass without showing anything."""
    if gate.seeds < FEWEST_SEEDS:
        raise ConfigError(f"{gate.name} {gate.system}: seeds={gate.seeds} must be at least {FEWEST_SEEDS}")
    for measure, bar in gate.bars.items():
        if bar.check or bar.chance or gate.negative_control:
            continue
        trivial = gate.trivial.get(measure)
        if trivial is None or (trivial.value is None and trivial.measure not in gate.measures):
            raise ConfigError(
                f"{gate.name}: the bar on {measure} needs a trivial baseline. Cure: trivial: {{{measure}: "
                "{value: ..., name: ..., source: ...}}, or measure: one of the gate's own measures"
            )
        if trivial.value is not None and not bar.excludes(trivial.value):
            raise ConfigError(f"{gate.name}: {trivial.name} ({trivial.value:g}) passes the bar on {measure}")


def _hash(content: Any) -> str:
    text = json.dumps({**content, "schema": SCHEMA_VERSION}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
