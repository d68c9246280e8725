"""What gates measure of systems that read the examples of a supervised task one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from classic_metarl.black_box.hochreiter import functions_of, load_sequence_learner
from classic_metarl.problems.functions import VARIANCE, best_linear_errors, terms
from evals.gates.measures import Score
from mrt.control.oracles import mean_and_se
from mrt.runs.recipe import Recipe

TEST_SEED = 1 << 20  # of held-out functions


def quadratic_functions(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """`mse_K`: the squared error with K examples seen, beside the predictor 0 and the best linear estimate."""
    torch.set_num_threads(1)
    learner = load_sequence_learner(run, recipe)
    x, y = functions_of(recipe).draw(TEST_SEED, range(tasks))
    with torch.no_grad():
        errors = (learner(x, y) - y).square()[..., 0].double()
    floor, ceiling = VARIANCE * terms(x.double()).square().sum(-1).mean(0), best_linear_errors(x).mean(0)
    found = {}
    for name in measures:
        k = int(name.removeprefix("mse_"))
        found[name] = Score(*mean_and_se(errors[:, k]), float(floor[k]), float(ceiling[k]))
    return found
