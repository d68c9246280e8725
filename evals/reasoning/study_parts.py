"""What studies of arms share: the identity of a result, what is kept of a training run and of an evaluation."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrt.errors import ConfigError
from mrt.runs.recipe import load_recipe, named_only
from mrt.runs.rundir import RunState, inspect_run, read_run
from mrt.runs.steps import Progress, last_object

CURVE_POINTS = 60


@dataclass(frozen=True)
class Arm:
    """A recipe of the study's folder, what this arm changes in it, and what in its evaluation (`key=value`)."""

    recipe: str
    overrides: tuple[str, ...] = ()
    evaluation: tuple[str, ...] = ()


def digest_of(recipe: str | None, overrides: Sequence[str], evaluation: Mapping[str, Any], schema: int) -> str:
    """What decides a result: recipe (None: nothing is trained), cost and evaluation; paths aside."""
    resolved = load_recipe(recipe, overrides).to_dict() if recipe else {}
    for key in ("output_dir", "model", "description"):
        resolved.pop(key, None)
    content = {"recipe": resolved, "evaluation": evaluation, "schema": schema}
    return hashlib.sha256(json.dumps(named_only(content), sort_keys=True, default=str).encode()).hexdigest()[:16]


def is_finished(folder: Path, recipe: str, overrides: Sequence[str]) -> bool:
    """Whether this very run is finished there. A run of other settings that is finished there raises ConfigError."""
    return inspect_run(folder, load_recipe(recipe, overrides)) is RunState.FINISHED


def cost_so_far(folder: Path, limit: float) -> Progress:
    """How much of its cost a run has spent."""
    spent = float(last_object(folder / "metrics.jsonl", 65_536).get("cost/total") or 0.0)
    return Progress(int(spent / 1e4), int(limit / 1e4), "of 10,000 positions")


def steps_so_far(folder: Path) -> Progress:
    """How many of its updates a run has made."""
    total = read_run(folder).get("recipe", {}).get("args", {}).get("max_steps", 0)
    return Progress(int(last_object(folder / "metrics.jsonl", 65_536).get("step") or 0), int(total))


def trained(folder: Path, model: str) -> dict[str, Any]:
    """What is stored of a finished run: recipe (paths aside, the model named `model`), machine, cost, curve."""
    run = read_run(folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    curve = [row for row in rows if "cost/total" in row]
    last = curve[-1] if curve else {}
    return {
        "recipe": run["recipe"] | {"output_dir": "", "model": model},
        "commit": run.get("commit"),
        "versions": run.get("versions"),
        "machine": machine(),
        "minutes": round(run["seconds"] / 60, 2),
        "updates": run["steps"],
        "cost": {key.removeprefix("cost/"): value for key, value in last.items() if key.startswith("cost/")},
        "curve": thinned(curve),
    }


def machine() -> str:
    """On what a result was made."""
    return f"{platform.machine()}, {os.cpu_count()} cores, one thread"


def measured(folder: Path, n: int) -> dict[str, Any]:
    """What is stored of a finished evaluation: its results, and by problem the right answers of `n` at each budget,
    the regret and the thinking tokens.
    """
    from mrt.reasoning.evaluation.stored import Samples

    samples = Samples(folder)
    keys = list(dict.fromkeys(samples.keys))
    return {
        "results": json.loads((folder / "results.json").read_text()) | {"model": ""},
        "keys_sha256": hashlib.sha256("\n".join(keys).encode()).hexdigest(),
        "correct": [[round(n * x) for x in row] for row in samples.by_problem(samples.at_budget).tolist()],
        "regret": [round(x, 5) for x in samples.by_problem(samples.regret).tolist()],
        "tokens": [round(x, 2) for x in samples.by_problem(samples.thinking).tolist()],
    }


def thinned(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Means over at most 60 stretches of the training log; the reward is on problems not seen before."""
    if not rows:
        return []
    begin = rows[0]["time"]
    parts = np.array_split(np.arange(len(rows)), min(CURVE_POINTS, len(rows)))
    return [
        {
            "step": rows[part[-1]]["step"],
            "cost": rows[part[-1]]["cost/total"],
            "minutes": round((rows[part[-1]]["time"] - begin) / 60, 3),
            "reward": round(float(np.mean([rows[i]["reward"] for i in part])), 4),
            "tokens": round(float(np.mean([rows[i]["completions/mean_length"] for i in part])), 1),
        }
        for part in parts
    ]


def read_results(paths: Mapping[str, Sequence[Path]]) -> dict[str, list[dict[str, Any]]]:
    """The stored results of every arm all of whose paths are there."""
    return {
        arm: [json.loads(path.read_text()) for path in files]
        for arm, files in paths.items()
        if all(path.is_file() for path in files)
    }


def check_same(hashes: Sequence[str], store: Path) -> None:
    """Raises ConfigError where results are on different problems."""
    if len(set(hashes)) > 1:
        raise ConfigError(f"{store} holds results on different problems: remove those of an older study")


def shown(value: Mapping[str, float] | None, digits: int = 3) -> str:
    """A figure with its interval; - where there is none."""
    if value is None:
        return "-"
    return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
