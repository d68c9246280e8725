"""What a gate is, and the ones that `table.yaml` lists."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from evals.gates.measures import Score, control
from mrt.errors import ConfigError, nearest
from mrt.runs.recipe import Recipe, load_recipe, named_only
from mrt.runs.strict_yaml import parse_yaml

TABLE = Path(__file__).with_name("table.yaml")
SCHEMA_VERSION = 1
CHANCE_SE = 3.0


@dataclass(frozen=True)
class Bar:
    """What passes: a mean inside `band` (None: no bound); mean - 2 SE above `above`; within 3 SE of the floor."""

    band: tuple[float | None, float | None] = (None, None)
    above: float | None = None
    chance: bool = False

    def passed(self, mean: float, se: float, floor: float | None) -> bool:
        """Whether a mean with this error passes."""
        low, high = self.band
        inside = (low is None or mean >= low) and (high is None or mean <= high)
        clear = self.above is None or mean - 2 * se > self.above
        random = not self.chance or (floor is not None and abs(mean - floor) <= CHANCE_SE * se)
        return inside and clear and random


@dataclass(frozen=True)
class Gate:
    """One system at one gate: a recipe, what is measured of the run, and what passes.

    `name` is its key in the table: T6-hard is the variant "hard" of T6, and is run with it.
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
    seeds: int = 3
    function: str = ""  # module:function that measures; empty for policies of control
    greedy: bool = True  # False: a policy of control draws its actions, as in training
    measured: Mapping[str, Any] = field(default_factory=dict)  # dials of the tasks it is measured on, over the recipe's

    @property
    def number(self) -> str:
        """The gate's own name: T6 of T6-hard."""
        return self.name.split("-")[0]

    @property
    def variant(self) -> str:
        """hard of T6-hard; empty for a gate that has one form only."""
        return self.name.partition("-")[2]

    def overrides_for(self, seed: int, run: Path) -> list[str]:
        """What is laid over the recipe for one seed."""
        return [*self.overrides, f"seed={seed}", f"output_dir={run}"]

    def load(self, seed: int, run: Path) -> Recipe:
        """The checked recipe of one seed."""
        return load_recipe(self.recipe, self.overrides_for(seed, run))

    def training(self, seed: int) -> dict[str, Any]:
        """What decides a run: the recipe, paths and words aside."""
        content: dict[str, Any] = self.load(seed, Path("run")).to_dict()
        for key in ("output_dir", "description"):
            content.pop(key, None)
        return content

    def run_name(self, seed: int) -> str:
        """A folder's name: a run of another recipe lies elsewhere, one that is only measured differently does not."""
        text = json.dumps(named_only(self.training(seed)), sort_keys=True)
        return f"{Path(self.recipe).name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}-seed{seed}"

    def digest(self, seed: int) -> str:
        """What decides the stored result: the recipe and the measurement."""
        content: dict[str, Any] = {
            "recipe": self.training(seed),
            "measures": self.measures,
            "tasks": self.tasks,
            "function": self.function,
        }
        content |= {} if self.greedy else {"greedy": False}
        content |= {"measured": self.measured} if self.measured else {}
        text = json.dumps(named_only({**content, "schema": SCHEMA_VERSION}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def score(self, run: Path, seed: int) -> dict[str, Score]:
        """Measures a trained run."""
        function = _function(self.function) if self.function else partial(control, greedy=self.greedy)
        recipe = self.load(seed, run)
        return function(run, replace(recipe, tasks={**recipe.tasks, **self.measured}), self.tasks, self.measures)


def gates(names: list[str] | None = None, systems: list[str] | None = None) -> list[Gate]:
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
        measure: Bar(tuple(bar.get("band", (None, None))), bar.get("above"), bar.get("chance", False))
        for measure, bar in entry["pass"].items()
    }
    return Gate(
        name=name,
        system=system,
        title=entry["title"],
        recipe=own["recipe"],
        overrides=tuple(own.get("overrides", ())),
        measures=tuple(entry.get("measures", entry["pass"])),
        tasks=entry["tasks"],
        bars=bars,
        paper=entry.get("paper", {}),
        seeds=own.get("seeds", entry.get("seeds", 3)),
        function=entry.get("function", ""),
        greedy=entry.get("greedy", True),
        measured=own.get("measured", {}),
    )


def _function(spec: str) -> Any:
    module, _, attribute = spec.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{spec!r} is no module:function that measures") from error
