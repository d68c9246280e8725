"""MRT beside outcome GRPO at equal cost, on Countdown: every arm from one warm start per seed, on the same data.

    python -m evals.reasoning.countdown_study              runs what is not stored yet, then prints the table
    python -m evals.reasoning.countdown_study --cached     prints what is stored
    python -m evals.reasoning.countdown_study --check-seed 0      runs a seed again and compares it with what is stored

Cost is positions through the model without padding: sampled 1, probed 1, updated 3 each. An arm stops at the first
update that brings it to the cost of its family. Interrupted anywhere, the same command goes on from there. Results
stand under evals/results/countdown_study/, one file a seed and arm, with commit, recipe, machine and minutes.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from evals.reasoning.study import (
    Arm,
    check_same,
    cost_so_far,
    digest_of,
    is_finished,
    measured,
    read_results,
    shown,
    steps_so_far,
    trained,
)
from mrt.errors import ConfigError, MRTError
from mrt.metrics.regret import bootstrap_over_seeds, tokens_at_equal_accuracy_interval
from mrt.runs.rundir import read_run, write_json
from mrt.runs.steps import Progress, Step, StepRunner, count_lines

SCHEMA_VERSION = 1
STORE = Path(__file__).resolve().parent.parent / "results" / "countdown_study"
RUNS = Path("runs/countdown_study")
WARM_START, BASELINE, OURS = "warmstart", "grpo", "mrt_gold"
N, PROBLEMS = 4, 1000


@dataclass(frozen=True)
class Family:
    """Problems of one kind: what they change in the recipes, what an arm may cost, and the budgets looked at."""

    cost: float
    budgets: str
    everywhere: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    warmstart: tuple[str, ...] = ()


FAMILIES = {
    "three": Family(cost=3e6, budgets="0,15,30,45,60,75,90,105,120"),
    # Episodes that build on the one before (its first step is kept), and episodes that only repeat it: what the traces
    # of real models are full of, and what progress can tell from the rest.
    "habits": Family(
        cost=3e6, budgets="0,15,30,45,60,75,90,105,120", warmstart=("args.adjust=0.3", "args.recheck=0.4")
    ),
    # Every episode builds on the one before, and the chance of a right answer rises with each that gets further.
    "chains": Family(
        cost=2e6,
        budgets="0,10,20,30,40,50,60,70,80,90,100,110,120",
        everywhere=("problems={name: chains, terms: 8}",),
        warmstart=("args.recheck=0.4", "args.give_up=0.15", "args.attempts_high=14", "args.max_steps=1200"),
    ),
}
ARMS = {
    WARM_START: Arm("warmstart"),
    BASELINE: Arm("grpo"),
    OURS: Arm("mrt"),
    "mrt_sampled": Arm("mrt", ("args.probe=sampled", "args.probe_tolerance=0")),
    "mrt_to_go": Arm("mrt", ("args.progress_mode=to-go",)),
    "mrt_discounted": Arm("mrt", ("args.progress_mode=discounted",)),
    "mixed": Arm("mrt", ("args.rollout=mixed", "args.credit=outcome", "args.probe=none", "args.thinking_budget=null")),
}


@dataclass(frozen=True)
class Study:
    """Which family, where the runs lie, and where results are stored."""

    family: str
    runs: Path = RUNS
    store: Path = STORE
    smoke: bool = False
    extra: Mapping[str, Arm] = field(default_factory=dict)

    program: ClassVar[str] = "evals.reasoning.countdown_study"  # which stores one result, in a process of its own

    @property
    def settings(self) -> Family:
        return FAMILIES[self.family]

    def arm(self, name: str) -> Arm:
        """The arm called `name`."""
        return {**ARMS, **self.extra}[name]

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
        return f"countdown/{chosen.recipe}", overrides

    def digest(self, seed: int, arm: str) -> str:
        """What decides the result: recipe, cost and evaluation; paths aside."""
        return digest_of(*self.recipe(seed, arm), self.evaluation, SCHEMA_VERSION)

    @property
    def evaluation(self) -> dict[str, Any]:
        """How an arm is measured."""
        return {"n": N, "problems": 8 if self.smoke else PROBLEMS, "budgets": self.settings.budgets}

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
                [*mrt, "eval", str(folder / "model"), *options, "--out", str(folder / "eval"), "--json"],
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


def read_stored(study: Study, seeds: Sequence[int], arms: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The stored results of the arms that have every one of these seeds, checked to be about the same problems."""
    found = read_results({arm: [study.stored(seed, arm) for seed in seeds] for arm in arms})
    check_same([one["keys_sha256"] for results in found.values() for one in results], study.store)
    return found


def summarise(study: Study, found: Mapping[str, list[dict[str, Any]]], seeds: Sequence[int]) -> dict[str, Any]:
    """Every figure of the study, each with mean, low and high (95 %, seeds and problems resampled)."""
    if not found:
        raise ConfigError(
            f"nothing is stored under {study.store / study.family} for seeds {list(seeds)}: run the study"
        )
    budgets = [int(b) for b in study.settings.budgets.split(",")]
    curves = {arm: np.array([one["correct"] for one in results]) / N for arm, results in found.items()}
    regrets = {arm: np.array([one["regret"] for one in results]) for arm, results in found.items()}

    def over(arms: Sequence[np.ndarray], statistic: Any) -> dict[str, float]:
        return vars(bootstrap_over_seeds(arms, statistic)).copy()

    lines: dict[str, Any] = {}
    for arm, results in found.items():
        lines[arm] = {
            "accuracy": over([curves[arm][:, :, -1]], lambda a: a),
            "normalised_regret": over([regrets[arm]], lambda a: a),
            "tokens": over([np.array([one["tokens"] for one in results])], lambda a: a),
            "accuracy_by_seed": [round(float(c[:, -1].mean()), 4) for c in curves[arm]],
            "accuracy_at_budget": [round(float(x), 4) for x in curves[arm].mean((0, 1))],
            "cost": [one["cost"].get("total") for one in results],
            "probed_over_sampled": [_share(one["cost"]) for one in results],
            "updates": [one["updates"] for one in results],
            "minutes": [one["minutes"] for one in results],
        }
        if arm != WARM_START and WARM_START in found:
            pair = [curves[arm][:, :, -1], curves[WARM_START][:, :, -1]]
            lines[arm]["accuracy_gain"] = over(pair, lambda a, b: a / b)
        if arm not in (WARM_START, BASELINE) and BASELINE in found:
            lines[arm] |= {
                "accuracy_minus_grpo": over([curves[arm][:, :, -1], curves[BASELINE][:, :, -1]], np.subtract),
                "regret_minus_grpo": over([regrets[arm], regrets[BASELINE]], np.subtract),
                "tokens_at_equal_accuracy": vars(
                    tokens_at_equal_accuracy_interval(curves[BASELINE], curves[arm], budgets)
                ).copy(),
            }
    ours = lines.get(OURS, {})
    return {
        "family": study.family,
        "seeds": list(seeds),
        "problems": len(next(iter(curves.values()))[0]),
        "budgets": budgets,
        "random_floor": random_floor(next(iter(found.values()))[0]),
        "oracle_ceiling": 1.0,
        "accuracy_gain": ours.get("accuracy_gain"),
        "normalised_regret": {arm: line["normalised_regret"] for arm, line in lines.items()},
        "regret_minus_grpo": ours.get("regret_minus_grpo"),
        "tokens_at_equal_accuracy": ours.get("tokens_at_equal_accuracy"),
        "arms": lines,
    }


def _share(cost: Mapping[str, float]) -> float | None:
    return round(cost["probed"] / cost["sampled"], 3) if cost.get("sampled") else None


def random_floor(result: Mapping[str, Any], draws: int = 50) -> float:
    """Accuracy of an answer drawn at random among the expressions that can be worked out (50 draws a test problem)."""
    from mrt.reasoning.problems import load_problems
    from mrt.reasoning.problems.expressions import draw_attempt

    problems = load_problems(**result["recipe"]["problems"]).problems("test")[: len(result["correct"])]
    rng, hits = random.Random(0), 0
    for problem in problems:
        for _ in range(draws):
            attempt = draw_attempt(problem.data["numbers"], problem.data["operations"], 99, rng)
            hits += attempt is not None and attempt.value == problem.data["target"]
    return round(hits / draws / len(problems), 4)


def table(summary: Mapping[str, Any]) -> str:
    """The study as text: one line an arm, floor and ceiling on each."""

    floor, ceiling = summary["random_floor"], summary["oracle_ceiling"]
    lines = [
        f"Countdown, family '{summary['family']}', seeds {summary['seeds']}, {summary['problems']} problems, "
        f"{N} samples; equal cost; random {floor:.3f} .. oracle {ceiling:.0f}",
        f"{'arm':<16}{'accuracy':<24}{'over warm start':<22}{'normalised regret':<24}{'minus GRPO':<26}"
        f"{'tokens at equal acc.':<22}{'M positions':<13}{'updates':<9}{'minutes':<8}",
    ]
    for arm, line in summary["arms"].items():
        cost = [c / 1e6 for c in line["cost"] if c]
        lines.append(
            f"{arm:<16}{shown(line['accuracy']):<24}{shown(line.get('accuracy_gain'), 2):<22}"
            f"{shown(line['normalised_regret']):<24}{shown(line.get('regret_minus_grpo')):<26}"
            f"{shown(line.get('tokens_at_equal_accuracy'), 2):<22}"
            f"{(f'{np.mean(cost):.1f}' if cost else '-'):<13}"
            f"{np.mean(line['updates']):<9.0f}{np.mean(line['minutes']):<8.1f}"
        )
    return "\n".join(lines)


def check_seed(study: Study, seed: int, arms: Sequence[str]) -> dict[str, Any]:
    """Runs one seed again in a folder of its own and sets it beside what is stored, arm by arm.

    On the same machine with the same versions the figures are equal; elsewhere rounding takes other turns, and the
    difference should lie within twice its standard error (problems as units).
    """
    fresh = Study(study.family, study.runs / "check", study.runs / "check" / "results", study.smoke, study.extra)
    StepRunner(fresh.runs, fresh.steps([seed], arms), 2).run()
    lines = {}
    for arm in arms:
        old, new = json.loads(study.stored(seed, arm).read_text()), json.loads(fresh.stored(seed, arm).read_text())
        difference = (np.array(new["correct"])[:, -1] - np.array(old["correct"])[:, -1]) / N
        error = float(difference.std(ddof=1) / len(difference) ** 0.5)
        lines[arm] = {
            "stored": old["results"]["accuracy"]["mean"],
            "again": new["results"]["accuracy"]["mean"],
            "equal": old["correct"] == new["correct"],
            "agrees": bool(abs(difference.mean()) <= 2 * error + 1e-12),
        }
    return {"seed": seed, "arms": lines, "agrees": all(line["agrees"] for line in lines.values())}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (2: a user's mistake)."""
    parser = argparse.ArgumentParser(
        prog="python -m evals.reasoning.countdown_study", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--family", choices=sorted(FAMILIES), default="three")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=sorted(ARMS), default=list(ARMS))
    parser.add_argument("--width", type=int, default=2, help="processes at a time, one thread each")
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--cached", action="store_true", help="print what is stored, run nothing")
    parser.add_argument("--check-seed", type=int, help="run this seed again and compare")
    parser.add_argument("--report", type=Path, help="write report.html of the first seed's runs here")
    parser.add_argument("--smoke", action="store_true", help="two updates and eight problems: does it run at all")
    parser.add_argument("--store-one", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    ns = parser.parse_args(argv)
    study = Study(ns.family, ns.runs, ns.store, ns.smoke)
    arms = [arm for arm in ARMS if arm in {WARM_START, *ns.arms}]
    try:
        if ns.store_one:
            seed, arm = ns.store_one.split(":")
            study.keep(int(seed), arm)
            return 0
        if ns.check_seed is not None:
            answer = check_seed(study, ns.check_seed, arms)
            print(json.dumps(answer, indent=2))
            return 0 if answer["agrees"] else 1
        if not ns.cached:
            StepRunner(study.runs, study.steps(ns.seeds, arms), ns.width).run()
        summary = summarise(study, read_stored(study, ns.seeds, arms), ns.seeds)
        if ns.report:
            _report(study, ns.seeds[0], arms, ns.report)
    except (MRTError, KeyboardInterrupt) as error:
        print(f"countdown_study: {error or 'interrupted; the same command goes on from here'}", file=sys.stderr)
        return 2 if isinstance(error, MRTError) else 130
    print(json.dumps(summary, indent=2) if ns.json else table(summary))
    return 0


def _report(study: Study, seed: int, arms: Sequence[str], page: Path) -> None:
    """Budget curves, J after each episode, and training curves against updates, cost and wall clock."""
    from mrt.report.page import write_report

    folders = [study.folder(seed, arm) for arm in arms if (study.folder(seed, arm) / "eval").exists()]
    write_report(page, [folder / "eval" for folder in folders], folders, title="Countdown study", baseline=BASELINE)


if __name__ == "__main__":
    sys.exit(main())
