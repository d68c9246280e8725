"""What gates measure of LOLA-DiCE: the exact value of the pair of policies that training found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from classic_metarl.gradient.lola import Players
from classic_metarl.problems.matrix_games import GAMES, Game, exact_values
from evals.gates.measures import Score
from mrt.errors import ConfigError
from mrt.runs.recipe import Recipe
from mrt.runs.rundir import trained_weights

STATES = ("start", "cc", "cd", "dc", "dd")


def payoffs(run: Path, recipe: Recipe, tasks: int, measures: Sequence[str]) -> dict[str, Score]:
    """`joint`: mean payoff of both players a step, discounted, by linear solve: nothing is sampled, so its error is 0.

    `one`, `two`: of each player. `c_start`, `c_cc`, ...: chance to cooperate in each state, mean of both players (tit
    for tat: 1, 1, 0, 1, 0). `tasks` does not matter.
    """
    from safetensors.torch import load_model

    if recipe.problems["name"] not in GAMES:
        raise ConfigError(f"{recipe.problems['name']!r} is no game of these players")
    players = Players()
    load_model(players, trained_weights(run))
    table, gamma = Game(recipe.problems["name"]).payoffs, float(recipe.args["gamma"])
    with torch.no_grad():
        one, two = ((1 - gamma) * exact_values(players.one, players.two, table, gamma)).tolist()
        cooperate = torch.sigmoid(torch.stack([players.one, players.two])).mean(0).tolist()
    floor, ceiling = float(table.mean()), float(table.mean(1).max())
    found = {"joint": Score((one + two) / 2, 0.0, floor, ceiling), "one": Score(one, 0.0), "two": Score(two, 0.0)}
    found |= {f"c_{name}": Score(value, 0.0) for name, value in zip(STATES, cooperate, strict=True)}
    return {name: found[name] for name in measures}
