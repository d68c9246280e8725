"""What gates measure of gradient-based meta-RL: returns of held-out tasks after 0, 1, 2, 3 gradient steps, each on new
episodes and judged by the next ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from classic_metarl.gradient.maesn import structured_noise
from classic_metarl.trainers.return_curves import adaptation_returns, load_meta_policy
from evals.gates.measures import Score
from mrt.control.evaluation.run import HELD_OUT, bounds_of
from mrt.control.oracles import mean_and_se
from mrt.runs.recipe import Recipe

STRUCTURE = "structure"


def returns(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str], episodes: int = 20) -> dict[str, Score]:
    """`return_K` after K gradient steps, the mean over tasks of `episodes` episodes each, in the environment of the
    test; `structure`: variance of the end of an episode over z divided by that within one z, before adaptation (MAESN).
    """
    torch.set_num_threads(1)
    learner, paired, args = load_meta_policy(run, recipe)
    test = paired.test
    steps = max((int(name.split("_")[1]) for name in measures if name != STRUCTURE), default=0)
    found = adaptation_returns(learner, test, args, count=tasks, steps=steps, episodes=episodes).double()
    bounds = bounds_of(test, test.batch(HELD_OUT, range(tasks)))
    paid = test.env.spec.episodes - test.env.spec.free_episodes
    sides = (None, None) if bounds is None else tuple(float(value.mean()) / paid for value in bounds)
    scores = {}
    for name in measures:
        if name == STRUCTURE:
            over, within = structured_noise(learner, test)
            scores[name] = Score(over / within, 0.0, 0.0)
        else:
            scores[name] = Score(*mean_and_se(found[:, int(name.split("_")[1])]), *sides)
    return scores
