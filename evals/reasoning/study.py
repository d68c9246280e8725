"""What the studies share: arms beside outcome GRPO at equal cost, every arm from one warm start per seed.

Cost is positions through the model without padding: sampled 1, probed 1, updated 3 each. An arm stops at the first
update that brings it to the cost of its family. Interrupted anywhere, the same command goes on from there. Results
are stored one file a seed and arm, with commit, recipe, machine and minutes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from evals.reasoning.study_parts import Arm, cost_so_far, digest_of, is_finished, measured, steps_so_far, trained
from mrt.runs.rundir import read_run, write_json
from mrt.runs.steps import Progress, Step, count_lines

SCHEMA_VERSION = 1
WARM_START, BASELINE = "warmstart", "grpo"
N = 4


@dataclass(frozen=True)
class Family:
    """Problems of one kind: what they change in the recipes, what an arm may cost, and the budgets looked at."""

    cost: float
    budgets: str
    everywhere: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    warmstart: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """Which family, where the runs lie, and where results are stored. A study is a subclass that names its families and
    arms, and where its runs and results lie unless told otherwise."""

    family: str
    runs: Path
    store: Path
    smoke: bool = False
    extra: Mapping[str, Arm] = field(default_factory=dict)

    program: ClassVar[str]  # which stores one result, in a process of its own
    title: ClassVar[str]
    recipes: ClassVar[str]  # the folder of recipes/ that the arms come from
    families: ClassVar[Mapping[str, Family]]
    arms: ClassVar[Mapping[str, Arm]]  # the warm start and the baseline among them
    ours: ClassVar[str]  # the arm that the summary sets beside the baseline
    problems: ClassVar[int] = 1000
    seeds: ClassVar[tuple[int, ...]] = (0, 1, 2)

    @property
    def settings(self) -> Family:
        return self.families[self.family]

    def arm(self, name: str) -> Arm:
        """The arm called `name`."""
        return {**self.arms, **self.extra}[name]

    def floor(self, result: Mapping[str, Any]) -> float:
        """Accuracy of an answer drawn at random on the problems of a stored result."""
        raise NotImplementedError

    def folder(self, seed: int, arm: str) -> Path:
        """Where the arm of this seed is trained; its evaluation stands in eval/ beside the model."""
        return self.runs / self.family / f"seed{seed}" / arm

    def stored(self, seed: int, arm: str) -> Path:
        """The result of one seed and arm."""
        return self.store / self.family / f"seed{seed}" / f"{arm}.json"

    def recipe(self, seed: int, arm: str) -> tuple[str, list[str]]:
        """Recipe and overrides that train the arm."""
        chosen, settings = self.arm(arm), self.settings
        overrides = [*settings.everywhere, *(settings.warmstart if arm == WARM_START else settings.arms)]
        if arm != WARM_START:
            overrides += [f"model={self.folder(seed, WARM_START) / 'model'}", "args.max_steps=2000"]
            overrides += [f"args.max_cost={settings.cost}"]
        if self.smoke:
            overrides += ["args.max_steps=2", "args.per_device_train_batch_size=16"]
            overrides += [] if arm == WARM_START else ["args.generation_batch_size=16"]
        overrides += [*chosen.overrides, f"output_dir={self.folder(seed, arm)}", f"seed={seed}"]
        return f"{self.recipes}/{chosen.recipe}", overrides

    def digest(self, seed: int, arm: str) -> str:
        """What decides the result: recipe, cost and evaluation; paths aside."""
        own = {"overrides": list(changed)} if (changed := self.arm(arm).evaluation) else {}
        return digest_of(*self.recipe(seed, arm), self.evaluation | own, SCHEMA_VERSION)

    @property
    def evaluation(self) -> dict[str, Any]:
        """How an arm is measured."""
        return {"n": N, "problems": 8 if self.smoke else self.problems, "budgets": self.settings.budgets}

    def steps(self, seeds: Sequence[int], arms: Sequence[str]) -> list[Step]:
        """Everything that is missing: training, evaluation and storing of each arm and seed."""
        return [step for seed in seeds for arm in arms for step in self._arm_steps(seed, arm)]

    def _arm_steps(self, seed: int, arm: str) -> list[Step]:
        if self.is_stored(seed, arm) and (arm != WARM_START or (self.folder(seed, arm) / "model").exists()):
            return []
        folder, label = self.folder(seed, arm), f"{arm}-{seed}"
        recipe, overrides = self.recipe(seed, arm)
        needs = () if arm == WARM_START else (f"{WARM_START}-{seed}",)
        mrt = [sys.executable, "-m", "mrt"]
        options = [f"--{key}={value}" for key, value in (*self.evaluation.items(), ("seed", seed), ("name", arm))]
        options = [option.replace("--problems=", "--limit=") for option in options]
        this = [sys.executable, "-m", self.program, "--family", self.family]
        keep = [f"--store-one={seed}:{arm}", "--runs", str(self.runs), "--store", str(self.store)]
        return [
            Step(
                label,
                [*mrt, "train", recipe, *overrides, "--json"],
                # Not the flag alone: a run of other settings may be finished there, and is refused.
                lambda: is_finished(folder, recipe, overrides),
                lambda: self._progress(folder, arm),
                needs if not self.is_stored(seed, WARM_START) or not self._trained(seed, WARM_START) else (),
            ),
            Step(
                f"eval-{label}",
                [
                    *mrt,
                    "eval",
                    str(folder / "model"),
                    *self.arm(arm).evaluation,
                    *options,
                    "--out",
                    str(folder / "eval"),
                    "--json",
                ],
                lambda: (folder / "eval" / "results.json").is_file(),
                lambda: Progress(count_lines(folder / "eval" / "samples.jsonl"), N * self.evaluation["problems"]),
                (label,),
            ),
            Step(
                f"store-{label}",
                [*this, *keep, *(["--smoke"] if self.smoke else [])],
                lambda: self.is_stored(seed, arm),
                needs=(f"eval-{label}",),
            ),
        ]

    def _trained(self, seed: int, arm: str) -> bool:
        return read_run(self.folder(seed, arm)).get("finished") is True

    def _progress(self, folder: Path, arm: str) -> Progress:
        return steps_so_far(folder) if arm == WARM_START else cost_so_far(folder, self.settings.cost)

    def is_stored(self, seed: int, arm: str) -> bool:
        """Whether the result is there and was made with these settings."""
        path = self.stored(seed, arm)
        return path.is_file() and json.loads(path.read_text())["digest"] == self.digest(seed, arm)

    def keep(self, seed: int, arm: str) -> None:
        """Writes the result of a finished run and its evaluation to the store."""
        write_json(self.stored(seed, arm), self.result(seed, arm))

    def result(self, seed: int, arm: str) -> dict[str, Any]:
        """What is stored of a seed and arm."""
        folder = self.folder(seed, arm)
        return {
            "schema_version": SCHEMA_VERSION,
            "digest": self.digest(seed, arm),
            "family": self.family,
            "arm": arm,
            "seed": seed,
            **trained(folder, "" if arm != WARM_START else "tiny"),
            **measured(folder / "eval", N),
        }
