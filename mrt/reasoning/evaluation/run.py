"""Measuring a model: samples on held-out problems, J after every episode, and the answers forced at each token budget.

Samples are appended to samples.jsonl, a chunk of problems at a time, and never generated twice: a run that was killed
goes on behind its last whole chunk. Every chunk draws from its own seed, so the samples depend neither on where a run
was interrupted nor on how many processes share it (torchrun: each takes every so-many-th chunk).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from mrt.errors import DataError
from mrt.reasoning.evaluation.config import EvalConfig, fingerprint_model, fingerprint_problems
from mrt.reasoning.evaluation.contamination import NGRAM, contamination_report
from mrt.reasoning.evaluation.examples import Examples, find_examples
from mrt.reasoning.evaluation.sampler import Evaluator
from mrt.reasoning.evaluation.samples import Chunks, claim
from mrt.reasoning.evaluation.stored import Samples
from mrt.reasoning.evaluation.summary import by_problem, summarise
from mrt.reasoning.evaluation.summary import compare as compare
from mrt.reasoning.problems import Problem, ProblemSet, load_problems, validate
from mrt.runs.rundir import write_json

WAIT_SECONDS = 0.5  # between two looks at what the other processes have written
TINY_SETS = (
    "countdown",
    "chains",
    "candidates",
)  # their episodes are one paragraph each, their thoughts a hundred tokens


def run_eval(
    model: str,
    problems: str,
    out: Path,
    dials: Mapping[str, Any] | None = None,
    split: str = "test",
    *,
    n: int = 4,
    budgets: Sequence[int] | None = None,
    limit: int | None = None,
    seed: int = 0,
    name: str | None = None,
    notes: Mapping[str, Any] | None = None,
    train_files: Sequence[Path] = (),
    ngram: int = NGRAM,
    problem_set: ProblemSet | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Samples, grades and probes `model` on a split of a problem set and writes eval.json, samples.jsonl, problems.json
    and results.json to `out`.

    Args:
        budgets: thinking tokens at which an answer is forced; the last one is the full budget. Default: 0, 15, ... 120
            for Countdown, powers of two up to 8,192 elsewhere.
        notes: what eval.json keeps beside the settings (where the problems come from); it decides nothing.
        train_files: what the model was trained on, as far as known, for the contamination report.
        problem_set: the set that `problems` and `dials` name, where it has been made already.
        options: further fields of `EvalConfig`.

    Returns:
        The contents of results.json; {} in all processes but the main one.

    Raises:
        ConfigError: when `out` holds another evaluation, or an option cannot work.
        DataError: naming the rows whose gold answers cannot be used; nothing has been run then.
    """
    if problems in TINY_SETS:
        options.setdefault("segmenter_options", {"min_paragraphs": 0})  # an attempt is one paragraph
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    grid = tuple(budgets or _usual_budgets(problems))
    config = EvalConfig(model, problems, dials or {}, split, n, grid, limit, seed, **options)
    problem_set = problem_set or load_problems(problems, **config.dials)
    chosen = problem_set.problems(split)[:limit]
    if not chosen:
        raise DataError(f"problem set '{problems}' has no problem in split '{split}'")
    validate(problem_set, split, limit)
    examples = find_examples(problem_set, chosen, config)
    out.mkdir(parents=True, exist_ok=True)
    chunks = Chunks(out / "samples.jsonl", [problem.key for problem in chosen], n, config.chunk)
    rank, _ = _rank_and_world()
    if rank == 0:
        _claim(out, config, [*examples.solved, *chosen], chunks, name=name or Path(model).name, notes=notes)
    _sample_all(config, problem_set, chosen, chunks, name=name or model, examples=examples)
    if rank != 0:
        return {}
    if train_files:
        write_json(out / "contamination.json", contamination_report(problem_set, chosen, train_files, ngram))
    return write_results(out)


def _claim(
    out: Path,
    config: EvalConfig,
    chosen: Sequence[Problem],
    chunks: Chunks,
    *,
    name: str,
    notes: Mapping[str, Any] | None,
) -> None:
    """Writes to `out` what is measured there, or refuses it where another evaluation stands."""
    finished = (out / "eval.json").is_file() and len(chunks.finished()) == chunks.count
    identity = {"problems": fingerprint_problems(chosen)}
    if not finished or Path(config.model).is_dir():  # a finished evaluation can be summed up without its model
        identity |= fingerprint_model(config.model)
    claim(out, config.to_dict(), name, EvalConfig.defaults(), identity, notes=notes)


def _usual_budgets(problems: str) -> Sequence[int]:
    return range(0, 121, 15) if problems in TINY_SETS else (0, *(2**k for k in range(8, 14)))


def _rank_and_world() -> tuple[int, int]:
    """This process among those of torchrun, and how many there are."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def write_results(out: Path) -> dict[str, Any]:
    """results.json and problems.json from the samples that are there; returns the former's contents."""
    samples = Samples(out)
    results = summarise(samples)
    write_json(out / "problems.json", by_problem(samples))
    write_json(out / "results.json", results)
    return results


def _sample_all(
    config: EvalConfig,
    problem_set: ProblemSet,
    chosen: Sequence[Problem],
    chunks: Chunks,
    *,
    name: str,
    examples: Examples,
) -> None:
    """Every `world`-th chunk from `rank` on that is not there yet; the main process waits for the others."""
    rank, world = _rank_and_world()
    there = chunks.finished()
    mine = [index for index in range(rank, chunks.count, world) if index not in there]
    evaluator = Evaluator(config, problem_set, chosen, examples) if mine else None
    done = sum(len(chunks.problems(index)) for index in there)
    with tqdm(total=len(chosen), initial=done, desc=f"eval {name}", unit="problem", disable=rank > 0 or None) as bar:
        for index in mine:
            assert evaluator is not None
            part = [chosen[place] for place in chunks.problems(index)]
            rows = evaluator.sample(part, index)
            for position, row in enumerate(rows):
                row["place"] = index * config.chunk + position // config.n
            chunks.append(index, rows)
            bar.update(len(part))
            bar.set_postfix_str(evaluator.progress)
        while rank == 0 and len(chunks.finished()) < chunks.count:
            bar.set_postfix_str("waiting for the other processes")
            time.sleep(WAIT_SECONDS)
