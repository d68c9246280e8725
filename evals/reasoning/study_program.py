"""The command line of a study, and the check of a stored seed against a fresh run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from evals.reasoning.study import BASELINE, WARM_START, N, Study
from evals.reasoning.study_figures import read_stored, summarise, table
from mrt.errors import MRTError
from mrt.runs.steps import StepRunner


def check_seed(study: Study, seed: int, arms: Sequence[str]) -> dict[str, Any]:
    """Runs one seed again in a folder of its own and sets it beside what is stored, arm by arm.

    On the same machine with the same versions the figures are equal; elsewhere rounding takes other turns, and the
    difference should lie within twice its standard error (problems as units).
    """
    fresh = replace(study, runs=study.runs / "check", store=study.runs / "check" / "results")
    StepRunner(fresh.runs, fresh.steps([seed], arms), 2).run()
    lines = {}
    for arm in arms:
        old, new = json.loads(study.stored(seed, arm).read_text()), json.loads(fresh.stored(seed, arm).read_text())
        difference = (np.array(new["correct"])[:, -1] - np.array(old["correct"])[:, -1]) / N
        error = float(difference.std(ddof=1) / len(difference) ** 0.5)
        lines[arm] = {
            "stored": old["results"]["accuracy"]["mean"],
            "again": new["results"]["accuracy"]["mean"],
            "equal": old["correct"] == new["correct"],
            "agrees": bool(abs(difference.mean()) <= 2 * error + 1e-12),
        }
    return {"seed": seed, "arms": lines, "agrees": all(line["agrees"] for line in lines.values())}


def run_program(kind: type[Study], argv: Sequence[str] | None = None) -> int:
    """The command line of the study `kind`; returns the exit code (2: a user's mistake)."""
    ns = _parser(kind).parse_args(argv)
    study = kind(ns.family, ns.runs, ns.store, ns.smoke)
    arms = [arm for arm in kind.arms if arm in {WARM_START, *ns.arms}]
    try:
        if ns.store_one:
            seed, arm = ns.store_one.split(":")
            study.keep(int(seed), arm)
            return 0
        if ns.check_seed is not None:
            answer = check_seed(study, ns.check_seed, arms)
            print(json.dumps(answer, indent=2))
            return 0 if answer["agrees"] else 1
        if not ns.cached:
            StepRunner(study.runs, study.steps(ns.seeds, arms), ns.width).run()
        summary = summarise(study, read_stored(study, ns.seeds, arms), ns.seeds)
        if ns.report:
            _report(study, ns.seeds[0], arms, ns.report)
    except (MRTError, KeyboardInterrupt) as error:
        name = kind.program.rpartition(".")[2]
        print(f"{name}: {error or 'interrupted; the same command goes on from here'}", file=sys.stderr)
        return 2 if isinstance(error, MRTError) else 130
    print(json.dumps(summary, indent=2) if ns.json else table(summary))
    return 0


def _parser(kind: type[Study]) -> argparse.ArgumentParser:
    described = (sys.modules[kind.__module__].__doc__ or "").split("\n")[0]
    defaults = {field.name: field.default for field in fields(kind)}
    parser = argparse.ArgumentParser(prog=f"python -m {kind.program}", description=described)
    parser.add_argument("--family", choices=sorted(kind.families), default=next(iter(kind.families)))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(kind.seeds))
    parser.add_argument("--arms", nargs="+", choices=sorted(kind.arms), default=list(kind.arms))
    parser.add_argument("--width", type=int, default=2, help="processes at a time, one thread each")
    parser.add_argument("--runs", type=Path, default=defaults["runs"])
    parser.add_argument("--store", type=Path, default=defaults["store"])
    parser.add_argument("--cached", action="store_true", help="print what is stored, run nothing")
    parser.add_argument("--check-seed", type=int, help="run this seed again and compare")
    parser.add_argument("--report", type=Path, help="write report.html of the first seed's runs here")
    parser.add_argument("--smoke", action="store_true", help="two updates and eight problems: does it run at all")
    parser.add_argument("--store-one", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    return parser


def _report(study: Study, seed: int, arms: Sequence[str], page: Path) -> None:
    """Budget curves, J after each episode, and training curves against updates, cost and wall clock."""
    from mrt.report.page import write_report

    folders = [study.folder(seed, arm) for arm in arms if (study.folder(seed, arm) / "eval").exists()]
    write_report(page, [folder / "eval" for folder in folders], folders, title=study.title, baseline=BASELINE)
