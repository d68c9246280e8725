"""The stored samples of an evaluation as arrays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrt.errors import DataError
from mrt.metrics.intervals import interval
from mrt.metrics.regret import (
    mean_by_problem,
    rewards_at_budgets,
    trace_regrets,
)
from mrt.runs.tracking import read_lines


class Samples:
    """The samples of one evaluation as arrays; S samples, P problems, N budgets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder = folder
        self.config = _read(folder / "eval.json")
        self.rows = list(read_lines(folder / "samples.jsonl"))
        if all("place" in row for row in self.rows):  # several processes write their chunks in any order
            self.rows.sort(key=lambda row: (row["place"], row["sample"]))
        if not self.rows:
            raise DataError(f"{folder / 'samples.jsonl'} holds no sample")
        self.keys: list[str] = [row["key"] for row in self.rows]
        self.budgets: list[int] = self.config["budgets"]
        place = {budget: i for i, budget in enumerate(self.budgets)}
        forced = np.full((len(self.rows), len(self.budgets)), np.nan)
        for i, row in enumerate(self.rows):
            for item in row["forced"]:
                forced[i, place[item["budget"]]] = _number(item["reward"])
        self.thinking = np.array([row["thinking_tokens"] for row in self.rows], dtype=float)
        self.own = np.array([_number(row["reward"]) for row in self.rows])
        self.truncated = np.array([row["truncated"] for row in self.rows])
        self.at_budget = rewards_at_budgets(self.thinking, self.own, forced, self.budgets, self.truncated)  # (S, N)
        self.ends = [[0.0, *(float(e["end"]) for e in row["episodes"])] for row in self.rows]
        self.stop_values = [[_number(value) for value in row["stop_values"]] for row in self.rows]
        self.regret = trace_regrets(self.ends, self.stop_values, self.budgets[-1])  # (S,)

    def by_problem(self, values: Any) -> np.ndarray:
        """(P, ...) means over the samples of each problem, problems in order of first appearance."""
        return mean_by_problem(values, self.keys)


def by_episode(samples: Samples, values: Sequence[Any], first: int, hold: bool = False) -> list[dict[str, Any]]:
    """Mean with interval after each episode; `n` traces got that far, episodes that fewer than 10 problems reach are
    left out.

    With `hold` a trace that ended keeps its last value, as in the regret; without it only those that got that far are
    in the mean. Right traces end early, so the mean over the others falls although every trace rises.
    """
    lines = []
    for episode in range(max(map(len, values), default=0)):
        reached = np.array([len(row) > episode and not np.isnan(row[episode]) for row in values])
        column = [
            row[min(episode, len(row) - 1)] if len(row) and (hold or len(row) > episode) else np.nan for row in values
        ]
        means = samples.by_problem(np.array(column))
        means = means[~np.isnan(means)]
        problems = {key for key, here in zip(samples.keys, reached, strict=True) if here}
        if len(problems) >= min(10, len(set(samples.keys))):
            lines.append({"episode": episode + first, "n": int(reached.sum()), **interval(means)})
    return lines


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path.parent} is no evaluation: {path.name} is missing. Write one with `mrt eval`")
    return json.loads(path.read_text(encoding="utf-8"))
