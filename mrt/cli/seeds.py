"""`mrt train RECIPE --seeds N`: one run a seed, one after the other or by several workers, and their aggregate."""

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mrt.errors import ConfigError
from mrt.runs.population import Population
from mrt.runs.recipe import Recipe
from mrt.runs.rundir import main_process, write_json
from mrt.runs.seeds import aggregate, final_scores, seeded, table
from mrt.runs.workers import workers_at


def train_seeds(ns: Namespace, recipe: Recipe, train: Callable[[Namespace, Recipe], Any]) -> tuple[dict[str, Any], str]:
    """Trains every seed that is not finished; (facts, table), empty on all processes but the first.

    Args:
        train: trains one of them in this process.

    Raises:
        ConfigError: where a seed fails.
    """
    runs = seeded(recipe, ns.seeds)
    if ns.workers:
        _side_by_side(ns, recipe, runs)
    else:
        for number, one in enumerate(runs, 1):
            if main_process():
                print(f"seed {one.seed} ({number} of {len(runs)})", file=sys.stderr, flush=True)
            train(ns, one)
    if not main_process():
        return {}, ""
    found = aggregate({one.seed: final_scores(Path(one.output_dir)) for one in runs})
    write_json(Path(recipe.output_dir) / "seeds.json", {"seeds": [one.seed for one in runs], "metrics": found})
    facts = {"status": "trained", "output_dir": recipe.output_dir, "seeds": [one.seed for one in runs]}
    return {**facts, "metrics": found}, table(found, len(runs))


def _side_by_side(ns: Namespace, recipe: Recipe, runs: Sequence[Recipe]) -> None:
    if ns.fresh:
        raise ConfigError("--fresh sets one run aside; with --workers remove the folders of the seeds that start over")
    folder = Path(recipe.output_dir) / "population"
    with Population(folder, workers_at(ns.ray), ns.workers, allow_code=ns.allow_code) as population:
        results = population.map(runs)
    for result in results:
        if not result.finished:
            raise ConfigError(f"{result.folder}: {result.message}")
