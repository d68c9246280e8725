"""Every reasoning suite on one model, a few problems each: does it run, and what comes out.

    python -m evals.reasoning.suites --model smollm2 --data ../shared/data --problems 50 --dtype bfloat16 --store
    python -m evals.reasoning.suites --cached                    what is stored, as a table

The published files are looked for in `--data` by the suite's name (`gsm8k.jsonl`, `gsm8k_test.jsonl`). A suite whose
file is not there is left out and named. One greedy sample a problem and short thoughts: `--tokens` is the full budget
in place of the suite's own, and no continue cues are appended. So the figures say that a suite runs and what a small
model is worth on it, not what the suite's own settings would give. One file a model and suite lies under
evals/results/reasoning/suites/.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrt.errors import MRTError
from mrt.reasoning.evaluation.run import run_eval
from mrt.reasoning.evaluation.suites import ReasoningSuite, load_reasoning_suite
from mrt.reasoning.problems import load_problems
from mrt.runs.rundir import commit, write_json
from mrt.runs.suites import suite_names

STORE = Path(__file__).resolve().parents[1] / "results" / "reasoning" / "suites"
HEAD = ("suite", "problems", "accuracy", "by itself", "truncated", "unscorable", "budget", "prompt", "file", "minutes")


def names() -> list[str]:
    """The packaged suites, without their folder."""
    return [name.removeprefix("reasoning/") for name in suite_names() if name.startswith("reasoning/")]


def published(data: Path | None, name: str) -> Path | None:
    """The suite's file in `data`, or None."""
    found = [] if data is None else [data / f"{name}{end}" for end in (".jsonl", "_test.jsonl", ".parquet", ".csv")]
    return next((path for path in found if path.is_file()), None)


def run_suite(name: str, ns: argparse.Namespace) -> dict[str, Any] | None:
    """What is stored of one suite; None where its problems are not there."""
    suite = load_reasoning_suite(f"reasoning/{name}")
    file = published(ns.data, name)
    if suite.source is not None and file is None:
        return None
    start = time.monotonic()
    dials, notes = suite.located(file)
    problem_set = load_problems(suite.problems, **dials)
    made: dict[str, Any] = {"problem_set": problem_set, "dials": dials, "notes": notes}
    results = run_eval(ns.model, suite.problems, ns.out / name, **made, name=name, **_settings(suite, ns))
    kept = (
        *("n_problems", "n_samples", "accuracy", "accuracy_by_itself", "tokens", "normalised_regret", "budgets"),
        *("accuracy_at_budget", "verdicts", "truncated", "unscorable", "published_file", "left_out", "environment"),
    )
    return {
        "schema_version": 1,
        "suite": name,
        "model": ns.model,
        "dtype": ns.dtype,
        "shots": ns.shots,
        **{key: results[key] for key in kept},
        "minutes": round((time.monotonic() - start) / 60, 1),
        "commit": commit(),
    }


def _settings(suite: ReasoningSuite, ns: argparse.Namespace) -> dict[str, Any]:
    """Greedy decoding at a budget that a small model on a CPU can pay; what else the suite says stays."""
    budgets = [0, ns.tokens]
    options = {**suite.settings, "extensions": (), "probe": "greedy", "votes": 0, "answer_tokens": ns.answer_tokens}
    options |= {
        "temperature": 0.0,
        "top_p": 1.0,
        "own_answer_tokens": ns.answer_tokens,
        "engine_options": {"dtype": ns.dtype},
    }
    if ns.shots:
        options |= {"shots": ns.shots, "shots_from": ns.shots_from}
    return {"n": 1, "budgets": budgets, "limit": ns.problems, "seed": ns.seed, **options}


def read_stored(store: Path = STORE) -> list[dict[str, Any]]:
    """Everything stored, by model and suite."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(store.glob("*/*.json"))]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of one model's suites."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    for row in rows:
        file = {True: "published", False: "another", None: "made on the spot"}[row["published_file"]]
        cells = [row["suite"], str(row["n_problems"]), _interval(row["accuracy"])]
        cells += [_interval(row["accuracy_by_itself"]), f"{row['truncated']:.0%}", str(row["unscorable"])]
        prompt = f"{row['shots']} examples" if row["shots"] else "zero-shot"
        cells += [str(row["budgets"][-1]), prompt, file, f"{row['minutes']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(found: Mapping[str, Any]) -> str:
    return f"{found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def main(argv: list[str] | None = None) -> int:
    """Runs what was asked for; exit code 1 where a suite failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--data", type=Path, help="folder of published files")
    parser.add_argument("--suites", nargs="+", choices=names(), default=names(), metavar="NAME")
    parser.add_argument("--problems", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=128, help="thinking tokens, the full budget")
    parser.add_argument("--answer-tokens", type=int, default=32)
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("--shots-from", default="", help="a split of the suite's problems, or a file")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/suites"), help="samples, a folder a suite")
    parser.add_argument("--store", type=Path, nargs="?", const=STORE, help="keep the figures there")
    parser.add_argument("--cached", action="store_true", help="print what is stored, run nothing")
    ns = parser.parse_args(argv)
    if ns.cached:
        print(table(read_stored(ns.store or STORE)))
        return 0
    rows, failed = [], []
    for name in ns.suites:
        try:
            found = run_suite(name, ns)
        except MRTError as error:
            failed.append(name)
            print(f"{name}: {error}", file=sys.stderr)
            continue
        if found is None:
            print(f"{name}: left out, no file of that name in {ns.data}", file=sys.stderr)
            continue
        rows.append(found)
        if ns.store:
            write_json(ns.store / Path(ns.model).name / f"{name}.json", found)
    print(table(rows))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
