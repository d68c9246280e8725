"""What gates measure of MAML on a language model's adapters: operations that training never saw, beside fine-tuning new
adapters on the same examples, which is what one would do without meta-learning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from classic_metarl.gradient.lora import LoRALearner, LoRAMAMLConfig, learner_of, load_learner
from classic_metarl.problems.operations import Operations
from classic_metarl.trainers.loss_curves import loss_curve
from evals.gates.measures import Score
from mrt.control.oracles import mean_and_se
from mrt.runs.recipe import Recipe

RATES = (0.03, 0.1, 0.3, 1.0, 3.0)  # of plain fine-tuning; the best for the tasks it is chosen on is taken
CHOSEN_ON = 24  # operations of the training split
SCORE, PLAIN, OVER = "score", "plain", "over_plain"


def unseen_operations(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """`score_K`: share of right answers after K gradient steps on the support set; `plain_K`: the same of new adapters
    at the best of `RATES`; `over_plain`: the last score less the last plain one, task by task. The floor is the model
    before it saw an example, the ceiling every answer right.
    """
    torch.set_num_threads(1)
    asked = [(kind, int(step)) for kind, step in (name.split("_") for name in measures if name != OVER)]
    score_steps, plain_steps = (max(step for kind, step in asked if kind == one) for one in (SCORE, PLAIN))
    ours = load_learner(run, recipe, split="test")
    curves = {SCORE: -loss_curve(ours, ours.family, tasks, score_steps).double()}
    constant = replace(recipe, args={**recipe.args, "learn_rates": False})
    fresh = learner_of(constant, constant.build_args(LoRAMAMLConfig, run)).eval()
    seen = replace(ours.family, split="train")
    rates = {rate: _plain(fresh, rate, seen, CHOSEN_ON, plain_steps)[:, -1].mean() for rate in RATES}
    best = max(rates, key=lambda rate: float(rates[rate]))
    curves[PLAIN] = _plain(fresh, best, ours.family, tasks, plain_steps)
    floor = float(curves[SCORE][:, 0].mean())
    found = {f"{kind}_{step}": Score(*mean_and_se(curves[kind][:, step]), floor, 1.0) for kind, step in asked}
    found[OVER] = Score(*mean_and_se(curves[SCORE][:, -1] - curves[PLAIN][:, -1]))
    return {name: found[name] for name in measures}


def _plain(fresh: LoRALearner, rate: float, family: Operations, tasks: int, steps: int) -> Tensor:
    """(tasks, steps + 1) scores of new adapters fine-tuned by gradient steps of one rate."""
    fresh.steps = replace(fresh.steps, rate=rate)
    return -loss_curve(fresh, family, tasks, steps).double()
