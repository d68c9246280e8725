"""What `mrt eval` does with a model: the part of the command line that knows problems and suites. Light to import."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrt.errors import ConfigError
from mrt.runs.fields import convert_fields
from mrt.runs.strict_yaml import parse_yaml

SETTINGS = "settings."


def add_arguments(parser: ArgumentParser, positive: Callable[[str], int]) -> None:
    """What a reasoning evaluation takes beside the arguments that all evaluations share."""
    parser.add_argument("--model", dest="suite_model", metavar="M", help="the model that a reasoning suite measures")
    parser.add_argument("--file", metavar="FILE", help="the suite's problems from a local file instead of the hub")
    parser.add_argument("--any-file", action="store_true", help="no warning where FILE is not one that is published")
    parser.add_argument(
        "--train-file", metavar="FILE", action="append", default=[], help="what it was trained on: contamination report"
    )
    parser.add_argument("--ngram", type=positive, default=13, help="words of an n-gram in that report (default 13)")
    parser.add_argument(
        "--engine", metavar="E", help="transformers (default), vllm, or the address of a `vllm serve` (http://...)"
    )
    parser.add_argument("--regrade", action="store_true", help="MODEL is an evaluation: grade its answers again")
    parser.add_argument("--export", choices=("lm-eval",), help="write the problems to --out as another harness's task")
    parser.set_defaults(n=None, probe=None, temperature=None)  # what is not given is the suite's to say


def evaluate(
    ns: Namespace, problems_of: Callable[[Namespace, Mapping[str, Any]], tuple[str, dict[str, Any]]]
) -> dict[str, Any]:
    """Runs, regrades or exports, as the arguments say; returns what `--json` prints.

    Args:
        problems_of: (arguments, dials given) -> the problem set's name and dials where no suite says them.

    Raises:
        ConfigError: for arguments that cannot work together.
    """
    from mrt.runs.suites import is_suite

    budgets = budgets_of(ns.budgets) if ns.budgets else None
    settings, dials = overrides_of(ns.overrides)
    suite = is_suite(ns.model)
    if ns.regrade:
        from mrt.reasoning.evaluation.regrade import regrade

        return regrade(Path(ns.out))
    if not suite and (ns.file or ns.any_file or ns.suite_model):
        raise ConfigError("--file, --any-file and --model go with a suite (mrt eval reasoning/math500 --model M)")
    if suite:
        asked = _from_suite(ns, dials)
    else:
        name, found = problems_of(ns, dials)
        asked = {"model": ns.model, "problems": name, "dials": found, "settings": {}, "notes": {}, "n": 4}
    if ns.export:
        from mrt.reasoning.evaluation.export import write_lm_eval

        return write_lm_eval(Path(ns.out), asked["problems"], asked["dials"], ns.split, ns.limit, name=ns.name)
    if not asked["model"]:
        raise ConfigError("a reasoning suite measures a model: name it with --model M")
    return _run(ns, asked | ({"budgets": budgets} if budgets else {}), settings)


def overrides_of(items: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields of EvalConfig, dials of the set) from `settings.votes=4` and `numbers=4`, also `problems.numbers=4`."""
    if not items:
        return {}, {}
    from mrt.reasoning.evaluation.config import EvalConfig
    from mrt.reasoning.evaluation.suites import DECIDED_ELSEWHERE

    settings, dials = {}, {}
    for item in items:
        key, _, raw = item.partition("=")
        value = parse_yaml(raw, f"override {key}")
        if key.startswith(SETTINGS):
            settings[key.removeprefix(SETTINGS)] = value
        else:
            dials[key.removeprefix("problems.")] = value
    clash = sorted(DECIDED_ELSEWHERE & set(settings))
    if clash:
        raise ConfigError(f"settings.{clash[0]} has an option or an argument of its own (see `mrt eval --help`)")
    return convert_fields(EvalConfig, settings, "settings"), dials


def _from_suite(ns: Namespace, dials: Mapping[str, Any]) -> dict[str, Any]:
    from mrt.reasoning.evaluation.suites import load_reasoning_suite
    from mrt.reasoning.problems import load_problems

    if ns.problems:
        raise ConfigError("a suite names its problems itself: leave --problems out")
    suite = load_reasoning_suite(ns.model)
    found, notes = suite.located(Path(ns.file) if ns.file else None, ns.any_file)
    found |= dials
    problem_set = load_problems(suite.problems, **found)
    left_out = getattr(problem_set, "left_out", [])
    if notes.get("published_file", True) and not dials:
        suite.check_rows(len(problem_set.problems(ns.split)) + getattr(problem_set, "repeated", 0) + len(left_out))
    if left_out:
        notes["left_out"] = [list(one) for one in left_out]
    return {
        "model": ns.suite_model,
        "problems": suite.problems,
        "problem_set": problem_set,
        "dials": found,
        "settings": dict(suite.settings),
        "budgets": suite.budgets,
        "notes": notes,
        "n": suite.n,
    }


def _run(ns: Namespace, asked: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    from mrt.reasoning.evaluation.run import run_eval

    given = {"probe": ns.probe, "temperature": ns.temperature, "engine": ns.engine}
    options = {**asked["settings"], **{k: v for k, v in given.items() if v is not None}, **settings}
    return run_eval(
        model=asked["model"],
        problems=asked["problems"],
        dials=asked["dials"],
        problem_set=asked.get("problem_set"),
        split=ns.split,
        n=ns.n or asked["n"],
        budgets=asked.get("budgets"),
        out=Path(ns.out),
        limit=ns.limit,
        seed=ns.seed,
        name=ns.name or Path(ns.out).name,
        notes=asked["notes"],
        train_files=[Path(file) for file in ns.train_file],
        ngram=ns.ngram,
        **options,
    )


def budgets_of(text: str) -> list[int]:
    """Thinking tokens from `0,10,20`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() and len(part) < 10 for part in parts):
        raise ConfigError(f"--budgets '{text}' should be whole numbers of thinking tokens, as in 0,10,20")
    return sorted({int(part) for part in parts})
