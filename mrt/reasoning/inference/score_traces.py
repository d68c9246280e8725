"""J curves and regret for traces from anywhere: a JSONL file of thoughts, a model as the meta-prover, no training."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from mrt.errors import ConfigError, DataError, nearest
from mrt.metrics.bootstrap import bootstrap, mean_by_problem
from mrt.metrics.regret import trace_regrets
from mrt.reasoning.engines.opening import engine_on
from mrt.reasoning.grading.math_grader import MathGrader
from mrt.reasoning.models.loading import load_model, pad_id
from mrt.reasoning.probes.base import Trace
from mrt.reasoning.probes.table import make_probe
from mrt.reasoning.problems import Countdown, Problem
from mrt.reasoning.traces.prompts import ThinkFormat, render, think_format
from mrt.reasoning.traces.segmentation import make_segmenter
from mrt.reasoning.traces.templates import prepare_thinking
from mrt.reasoning.traces.trial import Segment, read_trial
from mrt.runs.tracking import read_lines

PROMPT, THOUGHT, GOLD = (
    ("prompt", "problem", "question"),
    ("completion", "thought", "text"),
    ("solution", "answer_gold", "gold"),
)
ROLES = {"prompt": "prompt", "thought": "completion", "gold": "solution"}
CHUNK = 64


def probe_file(
    path: Path,
    model: str,
    probe: str = "sampled",
    out: Path | None = None,
    seed: int = 0,
    *,
    samples: int = 4,
    segmenter: str = "cues",
    columns: Mapping[str, str] | None = None,
    boxes: str = "last",
    limit: int | None = None,
    **segmenter_options: Any,
) -> dict[str, Any]:
    """Measures J after every episode of the traces in `path`, and writes one object a trace to `out`.

    A row holds a prompt (prompt | problem | question: text or messages), a thought (completion | thought | text, with
    or without its tags) and the gold answer (solution | gold; `solutions` lists all accepted ones for the `gold`
    probe). The samples.jsonl of `mrt eval` is such a file. A row whose `data` hold numbers, target and operations is
    graded as Countdown, any other as mathematics.

    Args:
        columns: {"prompt": its column, "thought": ..., "gold": ...} where they have other names. A list of thoughts in
            a row counts as that many traces.
        boxes: which boxes of an answer count, see `MathGrader`.
        limit: only the first traces.

    Returns:
        traces, unscorable, budget (the longest thought), normalised_regret with its interval over problems,
        j_after_episode.

    Raises:
        DataError: naming the file, the row and the column that is missing.
    """
    rows = list(islice(_traces(path, dict(columns or {})), limit))
    if not rows:
        raise DataError(f"{path} holds no trace")
    language_model, tokenizer = load_model(model)
    tags = prepare_thinking(tokenizer)
    engine, fmt = engine_on(language_model, pad_id(tokenizer)), think_format(tokenizer, tags=tags)
    if all("numbers" in (row.get("data") or {}) for row in rows):
        segmenter_options.setdefault("min_paragraphs", 0)
    segment = make_segmenter(segmenter, **segmenter_options)
    prover = make_probe(probe, samples)
    traces = [_trace(row, tokenizer, fmt, segment) for row in rows]
    results = []
    with MathGrader(boxes=boxes) as grader:
        judge = _Judge(grader, fmt)
        torch.manual_seed(seed)
        for start in tqdm(range(0, len(traces), CHUNK), desc="probe", unit="chunk"):
            results += prover(engine, fmt, traces[start : start + CHUNK], judge)
    return _report(path, rows, traces, results, out)


def _trace(row: Mapping[str, Any], tokenizer: Any, fmt: ThinkFormat, segment: Segment) -> Trace:
    """What the probe reads of a row: prompt, thought and boundaries as token ids."""
    messages = row["prompt"] if isinstance(row["prompt"], list) else [{"role": "user", "content": row["prompt"]}]
    ids = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
    trial = read_trial(ids, fmt, segment)
    opening = tuple(trial.completion[: trial.start])
    prompt = render(tokenizer, messages, tags=fmt.tags)
    if opening and tuple(prompt[-len(opening) :]) == opening:
        opening = ()  # the tag stands in the prompt already
    return Trace(tuple(prompt), tuple(trial.thought), (0, *trial.ends), row, opening, trial.closed)


class _Judge:
    """Grades a forced answer by what its row is."""

    def __init__(self, grader: MathGrader, fmt: ThinkFormat) -> None:
        self.grader, self.countdown, self.fmt = grader, Countdown(train=0, warmstart=0, test=0), fmt

    def __call__(
        self, rows: Sequence[Mapping[str, Any]], texts: Sequence[str], ids: Sequence[Sequence[int]]
    ) -> list[float | None]:
        rewards = []
        for row, text in zip(rows, map(self.fmt.plain_text, ids), strict=True):
            data = row.get("data") or {}
            if {"numbers", "target", "operations"} <= set(data):
                problem = Problem(str(row.get("key", "")), "", str(row.get("solution", "")), data)
                rewards.append(self.countdown.grade(problem, text, opened=True).reward)
            else:
                rewards.append(self.grader.grade(text, str(row["solution"]), opened=True).reward)
        return rewards


def _report(path: Path, rows: Any, traces: Any, results: Any, out: Path | None) -> dict[str, Any]:
    x = [[float(cut) for cut in trace.cuts] for trace in traces]
    j = [list(result.values) for result in results]
    budget = max(1.0, max(points[-1] for points in x))
    regret = trace_regrets(x, j, budget)
    known = [i for i, value in enumerate(regret) if not math.isnan(value)]
    if out is not None:
        lines = [
            {
                "key": row.get("key"),
                "ends": list(trace.cuts[1:]),
                "stop_values": [None if math.isnan(v) else v for v in result.values],
                "stop_value_se": [None if math.isnan(v) else v for v in result.errors],
                "normalised_regret": None if math.isnan(value) else float(value),
            }
            for row, trace, result, value in zip(rows, traces, results, regret, strict=True)
        ]
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    problems = [str(row.get("key") or row["prompt"]) for row in rows]
    depth = max(map(len, j))
    means = []
    for episode in range(depth):
        here = [i for i, row in enumerate(j) if len(row) > episode and not math.isnan(row[episode])]
        if here:
            means.append(
                {"episode": episode, "n": len(here), **_interval([j[i][episode] for i in here], problems, here)}
            )
    return {
        "traces": len(traces),
        "file": str(path),
        "unscorable": len(traces) - len(known),
        "budget": budget,
        "normalised_regret": _interval([float(regret[i]) for i in known], problems, known) if known else None,
        "j_after_episode": means,
    }


def _interval(values: Sequence[float], problems: Sequence[str], chosen: Sequence[int]) -> dict[str, float]:
    """Mean and interval of the values of the `chosen` traces, the traces of one problem kept together."""
    return asdict(bootstrap(mean_by_problem(values, [problems[i] for i in chosen])))


def _traces(path: Path, columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """A checked row for every thought of the file."""
    unknown = sorted(set(columns) - set(ROLES))
    if unknown:
        raise ConfigError(f"mrt probe: columns has no '{unknown[0]}': {nearest(unknown[0], set(ROLES))}")
    for number, row in enumerate(read_lines(path), 1):
        if isinstance(row, dict):
            for role, column in columns.items():
                if row.get(column) is None:
                    raise DataError(f"{path}, row {number}: no column '{column}' (for {role})")
                row[ROLES[role]] = row[column]
        several = row.get("completion") if isinstance(row, dict) else None
        for thought in several if isinstance(several, list) else [None]:
            yield _checked(path, number, row if thought is None else {**row, "completion": thought})


def _checked(path: Path, number: int, row: Any) -> dict[str, Any]:
    """The row with its columns under the names prompt, completion and solution."""
    if not isinstance(row, dict):
        raise DataError(f"{path}, row {number}: a JSON object is needed, found {type(row).__name__}")
    found = dict(row)
    for name, aliases in (("prompt", PROMPT), ("completion", THOUGHT)):
        column = next((alias for alias in aliases if row.get(alias) is not None), None)
        if column is None:
            raise DataError(f"{path}, row {number}: no column '{name}' (or {', '.join(aliases[1:])})")
        if not isinstance(row[column], str) and not (name == "prompt" and isinstance(row[column], list)):
            raise DataError(
                f"{path}, row {number}, column '{column}': text is needed, found {type(row[column]).__name__}"
            )
        found[name] = row[column]
    gold = next((alias for alias in GOLD if isinstance(row.get(alias), str) and row[alias].strip()), None)
    if gold is None and not row.get("solutions") and "numbers" not in (row.get("data") or {}):
        raise DataError(f"{path}, row {number}, column 'solution': the gold answer is missing")
    found["solution"] = row[gold] if gold else str((row.get("solutions") or [""])[0])
    return found
