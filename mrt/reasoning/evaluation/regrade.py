"""Grading again without generating: what `mrt eval DIR --regrade` does to a folder of stored answers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mrt.errors import ConfigError, DataError
from mrt.reasoning.evaluation.config import EvalConfig, fingerprint_problems
from mrt.reasoning.evaluation.run import write_results
from mrt.reasoning.evaluation.sampler import choose_probe, values_from_votes
from mrt.reasoning.probes.forced import Sampled
from mrt.reasoning.problems import Problem, ProblemSet, load_problems
from mrt.runs.rundir import write_json
from mrt.runs.tracking import read_lines

ANSWERS = ("forced", "extended", "linearized")  # lists of graded answers in a row


def regrade(out: Path, problem_set: ProblemSet | None = None) -> dict[str, Any]:
    """Grades every stored answer again, by the problem set as it is now, and writes samples and results anew.

    No model is loaded. Gold answers may have been mended meanwhile; J of the exact probe, which no grader decided, is
    left as it is, J of a sampled one follows its answers.

    Returns:
        results.json, with `regraded`: {"answers", "changed"}.

    Raises:
        ConfigError: for a folder without an evaluation.
        DataError: for samples without the text of their answers, or of a problem that is gone.
    """
    path, description = out / "samples.jsonl", out / "eval.json"
    if not description.is_file() or not path.is_file():
        raise ConfigError(f"{out} holds no evaluation to grade again: write one with `mrt eval`")
    stored = json.loads(description.read_text(encoding="utf-8"))
    config = EvalConfig.read(stored)
    problem_set = problem_set or load_problems(config.problems, **config.dials)
    problems = problem_set.problems(config.split)
    by_key = {problem.key: problem for problem in problems}
    probe = choose_probe(config, [problem_set.solutions(problem) for problem in problems[: config.limit]])
    tally = {"answers": 0, "changed": 0}
    staged = path.with_name(".samples.regraded")
    with staged.open("w", encoding="utf-8") as file:
        for number, row in enumerate(read_lines(path), 1):
            if "response" not in row or row["key"] not in by_key:
                cause = (
                    "holds no text of its answer" if "response" not in row else f"belongs to '{row['key']}', now gone"
                )
                raise DataError(f"{path}, line {number}: this sample {cause}, so it cannot be graded again")
            _regrade_row(row, problem_set, by_key[row["key"]], tally)
            if isinstance(probe, Sampled) and probe.sampling.temperature > 0:
                row["stop_values"], row["stop_value_se"] = values_from_votes(row["votes"], probe)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(staged, path)
    identity = {**stored.get("identity", {}), "problems": fingerprint_problems(problems[: config.limit])}
    write_json(description, {**stored, "identity": identity})
    results = {**write_results(out), "regraded": tally}
    write_json(out / "results.json", results)
    return results


def _regrade_row(row: dict[str, Any], problem_set: ProblemSet, problem: Problem, tally: dict[str, int]) -> None:
    row["solution"] = problem.solution
    for item in _graded(row):
        grade = problem_set.grade(problem, item["response"], opened=True)
        tally["answers"] += 1
        tally["changed"] += item["verdict"] != str(grade.verdict)
        item["verdict"], item["reward"] = str(grade.verdict), grade.reward
        if item is row:
            row["answer"] = grade.extracted or row["answer"]


def _graded(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The row itself, unless its thought was never closed, and every answer forced in it."""
    if not row["truncated"]:
        yield row
    for name in ANSWERS:
        yield from row.get(name, [])
    for group in row.get("votes", []):
        yield from group
