"""What adaptation bought in meta-RL: returns after 0, 1, 2, ... gradient steps on held-out tasks, and their picture.

Every step is taken on new episodes and judged by the next ones, which are new as well (Finn et al. 2017, 1703.03400,
section 5.3: the numbers of figures 4 and 5).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classic_metarl.inner.meta_policy import MetaPolicy
from classic_metarl.inner.stage_credit import with_credit
from classic_metarl.inner.task_policy import play
from classic_metarl.problems.paired import PairedTasks
from classic_metarl.trainers.meta_rl_config import GradientRLConfig
from mrt.control.envs.base import EnvTasks
from mrt.control.evaluation.report import write_report
from mrt.control.evaluation.run import HELD_OUT, bounds_of
from mrt.runs.recipe import Recipe, import_trainer
from mrt.runs.rundir import trained_weights, write_json
from mrt.tasks import own_draws

EPISODES = 20  # of each task after each step, as in the paper's training


def adaptation_returns(
    learner: MetaPolicy,
    tasks: EnvTasks,
    args: GradientRLConfig,
    *,
    count: int = 40,
    steps: int = 3,
    episodes: int = EPISODES,
    seed: int = 0,
) -> Tensor:
    """(count, steps + 1) mean return of each held-out task's episodes after each number of gradient steps.

    Args:
        episodes: of each task after each step: those that the next step is taken on.

    Torch's own random state is left as it was. Played where the learner is.
    """
    device = next(learner.parameters()).device
    tasks = tasks.to(device)
    params = tasks.batch(HELD_OUT + seed, range(count))
    returns, credit = [], args.make_credit()
    with own_draws(HELD_OUT + seed, device), torch.no_grad():
        phi = learner.start()
        for number in range(steps + 1):
            trials = play(tasks.env, *learner.player(phi, number), params, episodes)
            returns.append(trials.returns.unflatten(0, (count, -1)).mean(1))
            if number < steps:
                weighed = with_credit(trials, credit, args.gamma, args.normalise)
                phi = learner.adapt(phi, number, weighed, order="first")
    return torch.stack(returns, 1).cpu()


def load_meta_policy(run: Path, recipe: Recipe) -> tuple[MetaPolicy, PairedTasks, Any]:
    """The trained learner of a run directory, its tasks and its arguments.

    Raises:
        ConfigError: where no trained model lies there.
    """
    from safetensors.torch import load_model

    path, trainer = trained_weights(run), import_trainer(recipe.trainer)
    args = recipe.build_args(trainer.args_class(), run)
    tasks = trainer.tasks_of(recipe)  # type: ignore[attr-defined]
    learner = trainer.build(tasks, args)  # type: ignore[attr-defined]
    load_model(learner, path)
    return learner.eval(), tasks, args


def write_adaptation(learner: MetaPolicy, tasks: PairedTasks, args: GradientRLConfig, run: Path) -> Path:
    """Measures the curve on held-out tasks and writes RUN/adaptation/results.json and RUN/report.html; returns the
    latter. The form is that of a control evaluation whose unit is a gradient step.
    """
    count, test = args.curve_tasks, tasks.test
    returns = adaptation_returns(learner, test, args, count=count, steps=args.curve_steps).double()
    mean, se = returns.mean(0), returns.std(0) / count**0.5
    names = [f"step_{k}" for k in range(returns.shape[1])]
    found: dict[str, Any] = {"tasks": {"name": test.name}, "n": count, "unit": "gradient step", "first": 0}
    found |= {"shown": names, "bounds": {}, "exact": {}, "scenes": [], "unlike_training": {}, "beside": "as printed"}
    cells = {name: {"mean": float(mean[k]), "se": float(se[k])} for k, name in enumerate(names)}
    player = {"kind": "policy", "measures": cells, "curve": {"mean": mean.tolist(), "se": se.tolist()}}
    found["players"] = {"policy": player}
    bounds = bounds_of(test, test.batch(HELD_OUT, range(count)))
    if bounds is not None:
        paid = test.env.spec.episodes - test.env.spec.free_episodes
        sides = {side: float(value.mean()) / paid for side, value in bounds._asdict().items()}
        found["bounds"] = {name: dict(sides) for name in names}
        found["bounds"]["total"] = {side: value * len(names) for side, value in sides.items()}
        level = [sides["floor"]] * len(names)
        player["relative_regret"] = _relative(returns, bounds.floor / paid, bounds.ceiling / paid)
        flat = {"mean": level, "se": [0.0] * len(names)}
        floor = {name: {"mean": sides["floor"], "se": None} for name in names}
        found["players"]["random"] = {"kind": "random", "measures": floor, "curve": flat}
    if args.paper:
        found["exact"]["the paper's own"] = dict(zip(names, args.paper, strict=False))
    results = {"schema_version": 1, "kind": "control", "suite": f"{run.name}: returns after each gradient step"}
    results |= {
        "description": f"{EPISODES} new episodes of each of {count} held-out tasks after every step.",
        "greedy": False,
    }
    write_json(run / "adaptation" / "results.json", {**results, "seed": 0, "environments": {test.name: found}})
    return write_report(run / "adaptation", run / "report.html")


def _relative(returns: Tensor, floor: Tensor, ceiling: Tensor) -> dict[str, float]:
    """Regret of the last step over that of random play, both summed over tasks."""
    lost, span = (ceiling.cpu() - returns[:, -1]).double(), (ceiling - floor).cpu().double()
    ratio = float(lost.sum() / span.sum())
    return {"mean": ratio, "se": float((lost - ratio * span).std() / len(lost) ** 0.5 / span.mean())}
