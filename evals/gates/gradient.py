"""What gates measure of gradient-based systems: the trained learner on held-out tasks, step by step of adaptation.

Losses after adaptation have heavy tails: means are over the tasks that did not diverge (loss below 100), and the share
that did is a measure, `diverged`. Medians are `median_K`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classic_metarl.baselines.nearest import NearestNeighbour
from classic_metarl.meta_learned.l2l import L2LTrainer, adam_rule, learned_rule, optimise, sgd_rule
from classic_metarl.problems.sinusoid import Sinusoids
from classic_metarl.trainers.few_shot import load_learner
from classic_metarl.trainers.loss_curves import DIVERGED, TEST_SEED, loss_curve
from evals.gates.measures import Score
from mrt.control.oracles import mean_and_se
from mrt.runs.recipe import Recipe, import_trainer, load_recipe
from mrt.runs.rundir import trained_weights

KNOWS_NOTHING = 3.006  # mean squared error of the best predictor that has not seen the task (sinusoid.py)


def sinusoid(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str], shots: int = 5) -> dict[str, Score]:
    """`mse_K`, `median_K` after K gradient steps on 5 points (the paper's, whatever training used), and `diverged`."""
    torch.set_num_threads(1)
    learner = load_learner(run, recipe)
    family = Sinusoids(shots=shots, queries=100, phase_high=learner.family.phase_high)
    steps = max(int(name.split("_")[1]) for name in measures if "_" in name)
    losses = loss_curve(learner, family, tasks, steps)
    return {name: _of_curve(name, losses) for name in measures}


def sinusoid_ten(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """The same on 10 points."""
    return sinusoid(run, recipe, tasks, measures, shots=10)


def over_maml(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """`ratio` of the mean squared error after one step over that of MAML, which is trained here with the same problems,
    arguments and seed; `mse_1` and `maml_mse_1` beside it.
    """
    beside, made = run / "beside", load_recipe("gradient/maml", ["args.save_strategy=no", f"seed={recipe.seed}"])
    made = replace(made, problems=recipe.problems, args={**recipe.args, **{"save_strategy": "no"}})
    maml: Any = import_trainer(made.trainer).from_recipe(made, beside)
    maml.train()
    family = Sinusoids(shots=maml.family.shots, queries=100, phase_high=maml.family.phase_high)
    ours, theirs = (_kept(loss_curve(one, family, tasks, 1)[:, 1]) for one in (load_learner(run, recipe), maml.model))
    ratio, parts = ours[0] / theirs[0], [(se / mean) ** 2 for mean, se in (ours, theirs)]
    found = {"ratio": Score(ratio, ratio * sum(parts) ** 0.5), "mse_1": Score(*ours), "maml_mse_1": Score(*theirs)}
    return {name: found[name] for name in measures}


def accuracy(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """`accuracy` on episodes of held-out classes after adaptation, `nearest` that of the pixels' nearest neighbours."""
    torch.set_num_threads(1)
    learner = load_learner(run, recipe)
    test = replace(learner.family, split="test")
    players = {"accuracy": learner, "nearest": NearestNeighbour(test)}
    found = {}
    for name in measures:
        mean, se = mean_and_se(-loss_curve(players[name], test, tasks, None)[:, -1])
        found[name] = Score(mean, se, 1 / test.ways, 1.0)
    return found


def imitation(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """`reached`: share of held-out second scenes in which the right target is reached; `wrong`: the other one."""
    torch.set_num_threads(1)
    learner = load_learner(run, recipe)
    family = learner.family
    held_out = [family.sample(TEST_SEED, index) for index in range(tasks)]
    right, wrong = family.reached(held_out, learner.policy(family.demonstration(held_out, 0)))
    found = {"reached": right, "wrong": wrong}
    return {name: Score(*mean_and_se(found[name]), 0.5, 1.0) for name in measures}


def optimiser(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """`l2l_K`, `adam_K`, `sgd_K`: f after K steps of each rule on held-out functions."""
    torch.set_num_threads(1)
    trainer = L2LTrainer.from_recipe(recipe, run / "measured")
    _load(trainer.model, run)
    matrix, target = trainer.tasks.batch([trainer.tasks.sample(TEST_SEED, index) for index in range(tasks)])
    rules = {"l2l": learned_rule(trainer.model, target.numel()), "adam": adam_rule(), "sgd": sgd_rule()}
    steps = max(int(name.split("_")[1]) for name in measures)
    curves = {name: optimise(rule, matrix, target, steps).double() for name, rule in rules.items()}
    found = {}
    for name in measures:
        rule, step = name.split("_")
        found[name] = Score(*mean_and_se(curves[rule][:, int(step)]), 10.0, 0.0)
    return found


def _load(model: Any, run: Path) -> None:
    from safetensors.torch import load_model

    load_model(model, trained_weights(run))


def _of_curve(name: str, losses: Tensor) -> Score:
    if name == "diverged":
        return Score(*mean_and_se(~(losses[:, -1] <= DIVERGED)))
    kind, step = name.split("_")
    column = losses[:, int(step)].double()
    if kind == "median":
        return Score(float(column.nan_to_num(torch.inf).median()), 0.0, KNOWS_NOTHING, 0.0)
    return Score(*_kept(column), KNOWS_NOTHING, 0.0)


def _kept(values: Tensor) -> tuple[float, float]:
    """Mean and standard error over the tasks that did not diverge."""
    return mean_and_se(values[values <= DIVERGED])
