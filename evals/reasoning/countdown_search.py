"""The search for the settings of the arms of `countdown_study`: the baseline is tuned as hard as ours.

    python -m evals.reasoning.countdown_search --family habits             runs what is not stored yet, prints the table
    python -m evals.reasoning.countdown_search --family habits --cached    prints what is stored

Every setting gets the same cost as in the study, from the warm start of a seed that the study does not use, and is
measured on problems of the train split, never on the study's. One run a setting: differences
within the standard errors say nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from evals.reasoning.countdown_study import ARMS, FAMILIES, OURS, RUNS, STORE, Study
from evals.reasoning.study import BASELINE, WARM_START, N
from evals.reasoning.study_parts import Arm
from mrt.errors import ConfigError, MRTError
from mrt.runs.steps import StepRunner

SEED, PROBLEMS = 100, 600


def settings() -> dict[str, Arm]:
    """Name -> arm: each changes one thing in the study's recipe of its arm."""
    changed = {
        BASELINE: {
            "lr2": "args.learning_rate=2.0e-4",
            "lr8": "args.learning_rate=8.0e-4",
            "group4": "args.num_generations=4",
            "group16": "args.num_generations=16",
            "scale_none": "args.scale_rewards=none",
            "scale_batch": "args.scale_rewards=batch",
            "dr_grpo": "args.loss_type=dr_grpo",
            "grpo_loss": "args.loss_type=grpo",
        },
        OURS: {
            "alpha5": "args.alpha=5.0",
            "alpha20": "args.alpha=20.0",
            "lr2": "args.learning_rate=2.0e-4",
            "lr8": "args.learning_rate=8.0e-4",
        },
    }
    arms = {}
    for base, variants in changed.items():
        arms[base] = ARMS[base]
        for name, override in variants.items():
            arms[f"{base}-{name}"] = Arm(ARMS[base].recipe, (*ARMS[base].overrides, override))
    return arms


@dataclass(frozen=True)
class Search(Study):
    """A study of settings, measured on problems of the train split."""

    program: ClassVar[str] = "evals.reasoning.countdown_search"

    @property
    def evaluation(self) -> dict[str, Any]:
        """How a setting is measured."""
        return super().evaluation | {"problems": 8 if self.smoke else PROBLEMS, "split": "train"}


def lines(search: Search, names: Sequence[str], seed: int = SEED) -> list[dict[str, Any]]:
    """What is stored, one object a setting; differences are to the unchanged arm, on the same problems."""
    found = {name: json.loads(p.read_text()) for name in names if (p := search.stored(seed, name)).is_file()}
    if not found:
        raise ConfigError(f"nothing is stored under {search.store / search.family}: run the search")
    return [_line(name, one, found.get(name.split("-")[0])) for name, one in found.items()]


def _line(name: str, one: Mapping[str, Any], base: Mapping[str, Any] | None) -> dict[str, Any]:
    hits, regret = np.array(one["correct"])[:, -1] / N, np.array(one["regret"])
    line = {"setting": name, "updates": one["updates"], "minutes": one["minutes"]}
    for key, values in (("accuracy", hits), ("normalised_regret", regret)):
        line[key], line[f"{key}_se"] = float(values.mean()), _error(values)
    if base is not None and base is not one:
        apart = regret - np.array(base["regret"])
        line["regret_minus_unchanged"], line["regret_minus_unchanged_se"] = float(apart.mean()), _error(apart)
    return line


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5)


def table(rows: Sequence[Mapping[str, Any]], family: str) -> str:
    """The search as text."""
    text = [
        f"Countdown, family '{family}', search at equal cost: seed {SEED}, {PROBLEMS} train problems, {N} samples",
        f"{'setting':<22}{'accuracy':<18}{'normalised regret':<20}{'minus unchanged':<20}{'updates':<9}{'minutes':<8}",
    ]
    for row in rows:
        apart = row.get("regret_minus_unchanged")
        error = row.get("regret_minus_unchanged_se", 0.0)
        text.append(
            f"{row['setting']:<22}{row['accuracy']:.3f} +- {row['accuracy_se']:.3f}    "
            f"{row['normalised_regret']:.3f} +- {row['normalised_regret_se']:.3f}      "
            f"{'-' if apart is None else f'{apart:+.3f} +- {error:.3f}':<20}{row['updates']:<9}{row['minutes']:<8.1f}"
        )
    return "\n".join(text)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (2: a user's mistake)."""
    known = settings()
    parser = argparse.ArgumentParser(
        prog="python -m evals.reasoning.countdown_search", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--family", choices=sorted(FAMILIES), default="habits")
    parser.add_argument("--settings", nargs="+", choices=sorted(known), default=list(known))
    parser.add_argument("--width", type=int, default=2, help="processes at a time, one thread each")
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--store", type=Path, default=STORE.parent / "countdown_search")
    parser.add_argument("--cached", action="store_true", help="print what is stored, run nothing")
    parser.add_argument("--smoke", action="store_true", help="two updates and eight problems: does it run at all")
    parser.add_argument("--store-one", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    ns = parser.parse_args(argv)
    search = Search(ns.family, ns.runs, ns.store, ns.smoke, known)
    try:
        if ns.store_one:
            seed, arm = ns.store_one.split(":")
            search.keep(int(seed), arm)
            return 0
        if not ns.cached:
            StepRunner(search.runs, search.steps([SEED], [WARM_START, *ns.settings]), ns.width).run()
        rows = lines(search, [WARM_START, *known])
    except (MRTError, KeyboardInterrupt) as error:
        print(f"countdown_search: {error or 'interrupted; the same command goes on from here'}", file=sys.stderr)
        return 2 if isinstance(error, MRTError) else 130
    print(json.dumps(rows, indent=2) if ns.json else table(rows, ns.family))
    return 0


if __name__ == "__main__":
    sys.exit(main())
