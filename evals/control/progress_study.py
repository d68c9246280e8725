"""Progress credit in control beside the plain return of the trial, at equal environment steps, probe steps counted.

    python -m evals.control.progress_study                    runs what is not stored yet, then prints the table
    python -m evals.control.progress_study --cached           prints what is stored; --results also writes table.md
    python -m evals.control.progress_study --env bus --arms gae exact --seeds 1 2 --minutes 5
    python -m evals.control.progress_study --check-seed 1     runs a seed again and compares
    python -m evals.control.progress_study --alpha 0.3 3 --seeds 0     other weights of the bonus, stored beside

Other systems on the same environments: `python -m evals.control.exploration_study`.

Arms: `gae` is the return of the trial alone; `episodes` adds the progress of J by the policy's own exploitation
episodes, `exact` that of J by the exact posterior (`mrt.control.oracles.stopping`), which takes no environment step.
Every arm stops at the first measurement that brings it to the steps of its environment. Greedy play on held-out tasks
is measured along the way. One file a seed and arm under evals/results/control_progress/; interrupted, the same command
goes on with the next run. Alpha was chosen on seed 0, which is no evidence.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from evals.control.exploring import explored
from evals.control.progress_figures import summarise, table
from evals.reasoning.study_parts import digest_of, machine
from mrt.control.envs import EnvTasks, make_tasks
from mrt.control.evaluation.run import HELD_OUT
from mrt.control.oracles import task_bounds
from mrt.control.oracles.references import exact_values
from mrt.control.rollout import rollout
from mrt.errors import MRTError
from mrt.runs.recipe import import_trainer, load_recipe
from mrt.runs.rundir import commit, write_json

STORE = Path(__file__).resolve().parent.parent / "results" / "control_progress"
TABLE = "table.md"
SCHEMA_VERSION = 1
SEEDS = (1, 2, 3, 4, 5)
TUNED_ON = 0
PLAIN = "gae"
HELD = 1000  # tasks
RECIPE = "control/progress-{}"
"""A recipe of this name per environment."""


@dataclass(frozen=True)
class Setting:
    """An environment: steps that an arm may take, updates between two measurements, and the return that counts as
    solved, which lies between what can be had without exploring (`without`) and the oracle's.
    """

    steps: int
    every: int
    threshold: float
    without: float
    alpha: float = 1.0
    arms: tuple[str, ...] = (PLAIN, "episodes", "exact")


SETTINGS = {
    "informative": Setting(steps=150_000, every=40, threshold=20.0, without=11.0),
    "hallway": Setting(steps=500_000, every=48, threshold=0.95, without=0.8),
    "semicircle": Setting(steps=600_000, every=48, threshold=10.0, without=4.3, arms=(PLAIN, "episodes")),
    "bus": Setting(steps=350_000, every=96, threshold=0.55, without=0.3, alpha=3.0),
    "map": Setting(steps=350_000, every=96, threshold=0.55, without=0.3, alpha=3.0),
}
ARMS = {
    PLAIN: ("args.credit=gae", "args.credit_options={}", "args.probe=episodes", "args.probe_samples=0"),
    "episodes": ("args.probe=episodes", "args.probe_samples=1"),
    "exact": ("args.probe=exact", "args.probe_samples=0"),
}
RUNNING = ("args.max_steps=1000000", "args.lr_scheduler_type=constant", "args.save_strategy=no", "args.report_to=[]")
QUIET = ("args.write_trials=false", "args.disable_tqdm=true", "args.logging_steps=100000", "args.use_cpu=true")


@dataclass(frozen=True)
class Job:
    """One run: environment, arm, weight of the bonus (None: that of the environment), seed."""

    env: str
    arm: str
    seed: int
    alpha: float | None = None
    steps: int | None = None
    held: int = HELD

    @property
    def setting(self) -> Setting:
        chosen = SETTINGS[self.env]
        return chosen if self.steps is None else replace(chosen, steps=self.steps)

    @property
    def name(self) -> str:
        """The arm, with its alpha where that is not the one of the environment."""
        return self.arm if self.alpha is None or self.arm == PLAIN else f"{self.arm}@{self.alpha:g}"

    @property
    def weight(self) -> float | None:
        """Alpha of the bonus; None where there is none."""
        return None if self.arm == PLAIN else (self.setting.alpha if self.alpha is None else self.alpha)

    def recipe(self) -> tuple[str, list[str]]:
        """Recipe and overrides."""
        bonus = () if self.weight is None else (f"args.credit_options={{alpha: {self.weight}, center: batch}}",)
        return RECIPE.format(self.env), [*RUNNING, *QUIET, *bonus, *ARMS[self.arm], f"seed={self.seed}"]

    def digest(self) -> str:
        """What decides the result."""
        setting = self.setting
        return digest_of(
            *self.recipe(), {"steps": setting.steps, "every": setting.every, "n": self.held}, SCHEMA_VERSION
        )

    def path(self, store: Path) -> Path:
        """Where the result stands."""
        return store / self.env / f"seed{self.seed}" / f"{self.name}.json"

    def is_stored(self, store: Path) -> bool:
        """Whether the result is there and was made with these settings."""
        path = self.path(store)
        return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["digest"] == self.digest()


class Curve(TrainerCallback):
    """Measures greedy play on held-out tasks every few updates, and ends training when the steps are used up."""

    def __init__(self, trainer: Any, tasks: EnvTasks, job: Job) -> None:
        self.trainer, self.env, self.job = trainer, tasks.env, job
        self.params = tasks.batch(HELD_OUT, range(job.held))
        self.points: list[dict[str, float]] = []
        self.measure()

    def measure(self) -> None:
        """Adds a point to the curve."""
        spent = self.trainer.cost.total
        played = rollout(self.env.clone(), self.trainer.policy, self.params, seed=HELD_OUT, greedy=True)
        paid = torch.where(played.episode >= self.env.spec.free_episodes, played.rewards, 0.0).sum(1)
        self.points.append(
            {
                "env_steps": spent.get("env_steps", 0.0),
                "probe_steps": spent.get("probe_steps", 0.0),
                "value": round(float(paid.mean()), 5),
                "explores": round(float(explored(self.env, played).float().mean()), 4),
            }
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if state.global_step % self.job.setting.every == 0:
            self.measure()
            last = self.points[-1]
            control.should_training_stop = last["env_steps"] + last["probe_steps"] >= self.job.setting.steps
        return control


def run(job: Job) -> dict[str, Any]:
    """Trains one arm on one seed and returns what is stored of it."""
    torch.set_num_threads(1)
    begin = time.monotonic()
    recipe = load_recipe(*job.recipe())
    tasks = make_tasks(**recipe.tasks)
    with tempfile.TemporaryDirectory() as folder:
        trainer = import_trainer(recipe.trainer, False).from_recipe(recipe, Path(folder))
        curve = Curve(trainer, tasks, job)
        trainer.add_callback(curve)
        trainer.train()
    floor, oracle = levels(tasks, job.held)
    return {
        "schema_version": SCHEMA_VERSION,
        "digest": job.digest(),
        "env": job.env,
        "arm": job.name,
        "seed": job.seed,
        "alpha": job.weight,
        "recipe": recipe.to_dict() | {"output_dir": ""},
        "commit": commit(),
        "machine": machine(),
        "minutes": round((time.monotonic() - begin) / 60, 2),
        "floor": floor,
        "oracle": oracle,
        "curve": curve.points,
    }


def levels(tasks: EnvTasks, held: int = HELD) -> tuple[float, float]:
    """Random play, and the Bayes-optimal value where it is known, else that of who knows the task; of a trial."""
    bounds = task_bounds(tasks.env, tasks.batch(HELD_OUT, range(held)))
    exact = exact_values(tasks.env).get("Bayes-optimal", {})
    return round(float(bounds.floor.mean()), 5), round(exact.get("total", float(bounds.ceiling.mean())), 5)


def check_seed(jobs: Sequence[Job], store: Path) -> bool:
    """Runs jobs that are stored again, and prints both last values; equal on one machine with one set of versions."""
    same = True
    for job in jobs:
        old, new = json.loads(job.path(store).read_text(encoding="utf-8")), run(job)
        last = [result["curve"][-1]["value"] for result in (old, new)]
        same &= abs(last[0] - last[1]) <= 0.05 * (old["oracle"] - old["floor"])
        print(f"{job.env} {job.name} seed {job.seed}: stored {last[0]:.3f}, again {last[1]:.3f}")
    return same


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (2: a user's mistake)."""
    ns = _parser().parse_args(argv)
    alphas = ns.alpha or [None]
    jobs = [
        Job(env, arm, seed, alpha)
        for seed in ns.seeds
        for env in ns.env
        for arm in SETTINGS[env].arms
        for alpha in (alphas if arm != PLAIN else [None])
        if arm in ns.arms
    ]
    begin = time.monotonic()
    try:
        if ns.check_seed is not None:
            again = [replace(job, seed=ns.check_seed) for job in jobs if job.seed == ns.seeds[0]]
            return 0 if check_seed(again, ns.store) else 1
        for job in [] if ns.cached else [job for job in jobs if not job.is_stored(ns.store)]:
            if time.monotonic() - begin > 60 * ns.minutes:
                print("out of time: the same command goes on from here", file=sys.stderr)
                break
            print(f"{job.env} {job.name} seed {job.seed}", file=sys.stderr)
            write_json(job.path(ns.store), run(job))
        summary = summarise([job.path(ns.store) for job in jobs], SETTINGS, PLAIN)
    except (MRTError, KeyboardInterrupt) as error:
        print(f"progress_study: {error or 'interrupted; the same command goes on from here'}", file=sys.stderr)
        return 2 if isinstance(error, MRTError) else 130
    print(json.dumps(summary, indent=2) if ns.json else table(summary))
    if ns.results:
        (ns.store / TABLE).write_text(table(summary) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evals.control.progress_study", description=__doc__.split("\n")[0])
    parser.add_argument("--env", nargs="+", choices=sorted(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--arms", nargs="+", choices=sorted(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--alpha", type=float, nargs="+", help="weights of the bonus in place of the chosen ones")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no further run after so many")
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--cached", action="store_true", help="print what is stored, run nothing")
    parser.add_argument("--results", action="store_true", help="write the table beside what is stored")
    parser.add_argument("--check-seed", type=int, help="run this seed again and compare")
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
