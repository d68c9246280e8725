"""From samples to numbers: every figure of results.json with its interval, and two models set against each other.

Problems are resampled, the samples of a problem stay together (95 % percentile intervals). No point lies beyond its
budget: a thought that was longer counts with the answer forced there. The ceiling of every figure is an oracle that is
always right at once (regret 0).
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mrt.errors import ConfigError
from mrt.metrics.intervals import interval
from mrt.metrics.regret import (
    area_under_budget,
    paired_bootstrap,
    tokens_at_equal_accuracy_interval,
)
from mrt.reasoning.evaluation.breakdown import parts_of
from mrt.reasoning.evaluation.measures import overthinking_adjusted
from mrt.reasoning.evaluation.samples import SCHEMA_VERSION
from mrt.reasoning.evaluation.stored import Samples, by_episode
from mrt.runs.rundir import commit, versions


def summarise(folder: Path | Samples) -> dict[str, Any]:
    """The contents of results.json for an evaluation folder."""
    samples = folder if isinstance(folder, Samples) else Samples(folder)
    accuracy = samples.by_problem(samples.at_budget)  # (P, N)
    known = accuracy[~np.isnan(accuracy).any(1)]
    by_itself = np.where(samples.truncated, 0.0, samples.own)
    adjusted = overthinking_adjusted(samples.thinking, samples.own, samples.truncated, samples.budgets)
    return {
        "schema_version": SCHEMA_VERSION,
        "name": samples.config["name"],
        "model": samples.config["model"],
        "problems": samples.config["problems"],
        "suite": samples.config.get("suite"),
        "published_file": samples.config.get("published_file"),
        "left_out": len(samples.config.get("left_out", [])),
        "n_problems": len(accuracy),
        "n_samples": len(samples.rows),
        "accuracy": interval(accuracy[:, -1]),
        "accuracy_by_itself": interval(samples.by_problem(by_itself)),
        "tokens": interval(samples.by_problem(np.minimum(samples.thinking, samples.budgets[-1]))),
        "normalised_regret": interval(samples.by_problem(samples.regret)),
        "area": interval(area_under_budget(samples.budgets, known)) if len(known) else interval([np.nan]),
        "overthinking_adjusted": interval(samples.by_problem(adjusted)),
        "budgets": samples.budgets,
        "accuracy_at_budget": [interval(column) for column in accuracy.T],
        "j_after_episode": by_episode(samples, samples.stop_values, 0, hold=True),
        "progress": by_episode(samples, [np.diff(row) for row in samples.stop_values], 1),
        "verdicts": dict(Counter(row["verdict"] for row in samples.rows).most_common()),
        "truncated": float(samples.truncated.mean()),
        "unscorable": int(np.isnan(samples.at_budget[:, -1]).sum()),
        **parts_of(samples),
        "environment": {"versions": versions(), "commit": commit(), "machine": platform.machine()},
    }


def by_problem(samples: Samples) -> dict[str, Any]:
    """The contents of problems.json: what every problem scored at every budget, which the heat map shows."""
    accuracy = samples.by_problem(samples.at_budget)
    rows = [
        {"key": key, "accuracy": [None if np.isnan(value) else round(float(value), 4) for value in line]}
        for key, line in zip(dict.fromkeys(samples.keys), accuracy, strict=True)
    ]
    return {"schema_version": SCHEMA_VERSION, "budgets": samples.budgets, "problems": rows}


def compare(a: Path, b: Path) -> dict[str, Any]:
    """A against B on the problems that both saw: differences A - B by paired bootstrap, and tokens at equal accuracy,
    B's over A's.

    Raises:
        ConfigError: when the two were evaluated on different budgets or share no problem.
    """
    ours, theirs = Samples(Path(a)), Samples(Path(b))
    if ours.budgets != theirs.budgets:
        raise ConfigError(f"budgets differ: {ours.budgets} in {a}, {theirs.budgets} in {b}. Evaluate both on one grid")
    order = {key: i for i, key in enumerate(dict.fromkeys(theirs.keys))}
    shared = [key for key in dict.fromkeys(ours.keys) if key in order]
    if not shared:
        raise ConfigError(f"{a} and {b} share no problem: evaluate both on the same split")
    mine = {key: i for i, key in enumerate(dict.fromkeys(ours.keys))}
    first, second = [mine[key] for key in shared], [order[key] for key in shared]
    pairs = {
        "accuracy": (ours.by_problem(ours.at_budget)[first, -1], theirs.by_problem(theirs.at_budget)[second, -1]),
        "normalised_regret": (ours.by_problem(ours.regret)[first], theirs.by_problem(theirs.regret)[second]),
        "tokens": (ours.by_problem(ours.thinking)[first], theirs.by_problem(theirs.thinking)[second]),
    }
    differences = {name: asdict(paired_bootstrap(x, y)) for name, (x, y) in pairs.items()}
    ratio = tokens_at_equal_accuracy_interval(
        theirs.by_problem(theirs.at_budget)[second], ours.by_problem(ours.at_budget)[first], ours.budgets
    )
    verdict = [f"{name}: {_tells(differences[name])}" for name in ("accuracy", "normalised_regret")]
    return {
        "schema_version": SCHEMA_VERSION,
        "a": ours.config["name"],
        "b": theirs.config["name"],
        "n_problems": len(shared),
        **differences,
        "tokens_at_equal_accuracy": asdict(ratio),
        "note": "; ".join(verdict),
    }


def _tells(difference: Mapping[str, float]) -> str:
    if difference["low"] > 0 or difference["high"] < 0:
        return "A differs from B"
    reach = (difference["high"] - difference["low"]) / 2
    return f"the data cannot tell A from B (with these problems a difference shows from about {reach:.3f} on)"
