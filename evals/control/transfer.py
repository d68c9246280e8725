"""Four ways to use experience on other tasks, on the point robot: what a new task costs with each of them.

    python -m evals.control.transfer                 runs what is not stored yet, then prints the table
    python -m evals.control.transfer --cached        prints what is stored

    scratch      SAC on the new task alone
    source       trained on one other task, then goes on on the new one (forward transfer)
    multi-task   trained on all training tasks without being told which, then goes on on the new one
    told         trained on all training tasks and told the goal: no step on the new task (zero-shot)

and, for the goal-conditioned policy that is paid within 0.1 of its goal alone, hindsight experience replay with four
goals from hindsight for every real one, and without any.

A curve is the greedy return after so many steps on the new task, mean over `TARGETS` held-out goals. Measures are those
of Taylor and Stone 2009 (JMLR 10): jumpstart, the gain before any step; the asymptote, the return at the end; and the
transfer ratio, the area between the curve and scratch's start over that of scratch, minus 1. One file a seed under
evals/results/transfer/; interrupted, the same command goes on with the next seed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from classic_metarl.baselines.goal_conditioned import HERTrainer
from evals.reasoning.study_parts import digest_of, machine
from mrt.control.envs import EnvTasks, make_tasks
from mrt.control.evaluation.run import HELD_OUT
from mrt.control.off_policy import SACConfig, SACPolicy, SACTrainer
from mrt.control.oracles import task_bounds
from mrt.control.rollout import rollout
from mrt.errors import ConfigError, MRTError
from mrt.metrics.bootstrap import bootstrap
from mrt.runs.recipe import load_recipe
from mrt.runs.rundir import commit, write_json

STORE = Path(__file__).resolve().parent.parent / "results" / "transfer"
RECIPE = "control/sac-point-robot"
HINDSIGHT = "baselines/her-point-robot"
SEEDS = (1, 2, 3)
SCRATCH, SOURCE, MULTI, TOLD = ARMS = ("scratch", "source", "multi-task", "told")
TARGETS = 4
GOALS = (4, 0)  # from hindsight, for every real one
UPDATES = 20  # steps of the outer loop on a new task, each of 100 environment steps
NEW = 10_000  # seeds of held-out goals begin here
STARTS = 200  # episodes that a point of a curve is measured on
SCHEMA_VERSION = 1
QUIET = ("args.save_strategy=no", "args.report_to=[]", "args.write_trials=false", "args.disable_tqdm=true")
CHANGED = (*QUIET, "args.logging_steps=100000", "args.use_cpu=true")


class Curve(TrainerCallback):
    """Greedy return on one task after every step of the outer loop; the environment steps taken till then."""

    def __init__(self, trainer: SACTrainer, tasks: EnvTasks, params: Mapping[str, torch.Tensor]) -> None:
        self.trainer, self.tasks, self.params = trainer, tasks, params
        self.points = [(0, self.value())]

    def value(self) -> float:
        """The policy's now."""
        return value_of(self.trainer.policy, self.tasks, self.params)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        self.points.append((self.trainer.played, self.value()))
        return control


def value_of(policy: SACPolicy, tasks: EnvTasks, params: Mapping[str, torch.Tensor]) -> float:
    """Mean greedy return of an episode on one task, over `STARTS` starts."""
    many = {name: value.expand(STARTS, *value.shape[1:]) for name, value in params.items()}
    played = rollout(tasks.env.clone(), policy, many, seed=HELD_OUT, greedy=True)
    return round(float(played.rewards.sum(1).mean()), 4)


def train(seed: int, *, told: bool = False, tasks: int = 0, start: Any = None, **options: Any) -> SACTrainer:
    """A trainer of the recipe on `tasks` tasks of its own (0: new ones all the time), not yet run.

    Args:
        start: a policy to go on from; a fresh one otherwise.
    """
    recipe = load_recipe(RECIPE, [*CHANGED, f"seed={seed}"])
    p_m = make_tasks(**{**recipe.tasks, "show_goal": told})
    with tempfile.TemporaryDirectory() as folder:
        args = recipe.build_args(SACConfig, Path(folder))
    args.num_tasks = tasks
    for name, value in options.items():
        setattr(args, name, value)
    torch.manual_seed(seed)
    policy = SACPolicy.for_spec(p_m.env.spec, **recipe.policy)
    if start is not None:
        policy.load_state_dict(start.state_dict())
    return SACTrainer(policy, args, p_m)


def new_seed(seed: int, target: int) -> int:
    """Of the tasks whose first one is this held-out goal."""
    return NEW + 100 * seed + target


def learned(seed: int, **options: Any) -> SACPolicy:
    """What a whole run of the recipe leaves behind."""
    trainer = train(seed, **options)
    trainer.train()
    return trainer.policy.eval()


def reached(seed: int, relabelled: int, steps: int | None) -> float:
    """Share of held-out goals and starts at which the goal-conditioned policy ends within the radius."""
    shorter = () if steps is None else (f"args.max_steps={steps}",)
    recipe = load_recipe(HINDSIGHT, [*CHANGED, *shorter, f"seed={seed}", f"args.relabelled={relabelled}"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = HERTrainer.from_recipe(recipe, Path(folder))
        trainer.train()
    tasks = trainer.tasks
    params = tasks.batch(HELD_OUT, range(5 * STARTS))
    played = rollout(tasks.env, trainer.policy, params, seed=HELD_OUT, greedy=True)
    return round(float((played.rewards[:, tasks.env.spec.episode_steps - 1] == 0).float().mean()), 4)


def run(seed: int, targets: int = TARGETS, updates: int = UPDATES, steps: int | None = None) -> dict[str, Any]:
    """All arms on one seed: pretraining, then each target on its own."""
    torch.set_num_threads(1)
    begin = time.monotonic()
    shorter: dict[str, Any] = {} if steps is None else {"max_steps": steps}
    starts: dict[str, Any] = {
        SCRATCH: None,
        SOURCE: learned(seed, tasks=1, **shorter),
        MULTI: learned(seed, **shorter),
    }
    told = learned(seed, told=True, **shorter)
    shown = make_tasks(**{**load_recipe(RECIPE).tasks, "show_goal": True})
    curves: dict[str, list[list[float]]] = {arm: [] for arm in ARMS}
    taken: list[int] = []
    new: dict[str, Any] = {"max_steps": updates, "random_steps": 0, "lr_scheduler_type": "constant"}
    for target in range(targets):
        for arm, start in starts.items():
            trainer = train(new_seed(seed, target), tasks=1, start=start, **new)
            curve = Curve(trainer, trainer.tasks, trainer.tasks.batch(trainer.args.seed, [0]))
            trainer.add_callback(curve)
            trainer.train()
            curves[arm].append([value for _, value in curve.points])
            taken = [played for played, _ in curve.points]
        goal = shown.batch(new_seed(seed, target), [0])
        curves[TOLD].append([value_of(told, shown, goal)] * len(taken))
    env = make_tasks(**load_recipe(RECIPE).tasks)
    goals = torch.cat([env.batch(new_seed(seed, target), [0])["goal"] for target in range(targets)])
    bounds = task_bounds(env.env, {"goal": goals})
    return {
        "schema_version": SCHEMA_VERSION,
        "digest": digest(seed, targets, updates, steps),
        "seed": seed,
        "commit": commit(),
        "machine": machine(),
        "minutes": round((time.monotonic() - begin) / 60, 2),
        "floor": round(float(bounds.floor.mean()), 4),
        "ceiling": round(float(bounds.ceiling.mean()), 4),
        "env_steps": taken,
        "curves": curves,
        "reached": {str(k): reached(seed, k, steps) for k in GOALS},
    }


def digest(seed: int, targets: int = TARGETS, updates: int = UPDATES, steps: int | None = None) -> str:
    """What decides a result."""
    settings = {"targets": targets, "updates": updates, "steps": steps, "starts": STARTS}
    return digest_of(RECIPE, [*CHANGED, f"seed={seed}"], settings, SCHEMA_VERSION)


def measures(curve: Sequence[float], scratch: Sequence[float]) -> dict[str, float]:
    """Jumpstart, asymptote and transfer ratio of a curve beside that of learning from scratch, equally long.

    Areas are over the start of scratch, by trapezoids: a ratio of 0 is no better than scratch.
    """
    ours, base = np.asarray(curve, dtype=float), np.asarray(scratch, dtype=float)
    areas = [float(np.trapezoid(values - base[0])) for values in (ours, base)]
    return {
        "jumpstart": float(ours[0] - base[0]),
        "asymptote": float(ours[-1]),
        "transfer ratio": areas[0] / areas[1] - 1 if areas[1] else float("nan"),
    }


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """{arm: {measure: interval over targets and seeds}}, and the mean curve of each arm."""
    if not results:
        raise ConfigError(f"nothing is stored under {STORE}: run the study")
    found: dict[str, dict[str, Any]] = {}
    for arm in ARMS:
        each = [
            measures(curve, np.mean(one["curves"][SCRATCH], axis=0)) for one in results for curve in one["curves"][arm]
        ]
        found[arm] = {name: bootstrap(np.array([row[name] for row in each])) for name in each[0]}
        found[arm]["curve"] = np.mean([one["curves"][arm] for one in results], axis=(0, 1)).round(3).tolist()
    return found


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The study as Markdown."""
    found, steps = summarise(results), results[0]["env_steps"]
    shown = [i for i, taken in enumerate(steps) if i in (0, len(steps) // 4, len(steps) // 2, len(steps) - 1)]
    floor, ceiling = (np.mean([one[name] for one in results]) for name in ("floor", "ceiling"))
    seeds, goals = [one["seed"] for one in results], len(results[0]["curves"][SCRATCH])
    lines = [
        f"Point robot, {goals} held-out goals a seed, seeds {seeds}; random play {floor:.2f}, straight to the goal "
        f"{ceiling:.2f}.",
        "",
        "| start | " + " | ".join(f"after {steps[i]} steps" for i in shown) + " | jumpstart | transfer ratio |",
        "|---|" + "---|" * (len(shown) + 2),
    ]
    for arm, row in found.items():
        jump, ratio = row["jumpstart"], row["transfer ratio"]
        cells = [f"{row['curve'][i]:.2f}" for i in shown]
        cells += [f"{one.mean:+.2f} [{one.low:+.2f}, {one.high:+.2f}]" for one in (jump, ratio)]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    for k in GOALS:
        values = [one["reached"][str(k)] for one in results]
        lines += [] if k != GOALS[0] else ["", "Goals reached, paid within 0.1 of them alone:"]
        lines.append(f"- {k} goals from hindsight for every real one: {np.mean(values):.3f} (seeds {values})")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (2: a user's mistake)."""
    parser = argparse.ArgumentParser(
        prog="python -m evals.control.transfer", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--cached", action="store_true", help="print what is stored, run nothing")
    ns = parser.parse_args(argv)
    try:
        results = []
        for seed in ns.seeds:
            path = ns.store / f"seed{seed}.json"
            stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            if not ns.cached and stored.get("digest") != digest(seed):
                print(f"seed {seed}", file=sys.stderr)
                stored = run(seed)
                write_json(path, stored)
            results += [stored] if stored else []
        print(table(results))
    except (MRTError, KeyboardInterrupt) as error:
        print(f"transfer: {error or 'interrupted; the same command goes on from here'}", file=sys.stderr)
        return 2 if isinstance(error, MRTError) else 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
