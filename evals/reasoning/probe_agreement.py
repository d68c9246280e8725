"""The exact probe beside the sampled one, on the same held-out traces: do they agree, and what does each cost?

    python -m evals.reasoning.probe_agreement MODEL --json

MODEL is a warm-started tiny model. It writes traces on held-out Countdown problems; J is measured at every boundary by
`gold` (the exact chance of a right answer) and by `sampled` with 4 and with 16 answers. `--store FILE` writes the
result.

    correlation      Pearson's, over boundaries, of the sampled J with the exact one; interval over problems
    ceiling          the same, were the sampled J binomial around the exact one: what noise alone leaves
    bias             mean of sampled minus exact
    coverage         share of boundaries where |sampled - exact| is at most 2 binomial standard errors of the exact J
    cost_ratio       positions through the model, sampled over gold, each with its own pass over the trace
    behind_the_pass  the same without that pass, as in training, where it comes from acting
    seconds_ratio    CPU time, sampled over gold
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrt.metrics.bootstrap import bootstrap_sums
from mrt.reasoning.engines.base import Branch
from mrt.reasoning.engines.transformers import TransformersEngine
from mrt.reasoning.models.loading import load_model, pad_id
from mrt.reasoning.probes.base import Trace
from mrt.reasoning.probes.forced import Sampled
from mrt.reasoning.probes.gold import Gold
from mrt.reasoning.problems import load_problems
from mrt.reasoning.traces.prompts import render, think_format
from mrt.reasoning.traces.segmentation import make_segmenter
from mrt.reasoning.traces.trial import read_trial
from mrt.runs.rundir import commit, versions, write_json

SAMPLES = (4, 16)


def main(argv: list[str] | None = None) -> int:
    """Parses, measures, prints; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a model of the tiny vocabulary")
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--traces", type=int, default=2, help="a problem")
    parser.add_argument("--budget", type=int, default=120, help="thinking tokens of a trace at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--json", action="store_true")
    ns = parser.parse_args(argv)
    found = measure(ns.model, ns.problems, ns.traces, ns.budget, ns.seed)
    if ns.store:
        write_json(ns.store, found)
    print(json.dumps(found) if ns.json else "\n".join(f"{key}: {value}" for key, value in found.items()))
    return 0


def measure(model: str, problems: int, traces: int, budget: int, seed: int) -> dict[str, Any]:
    """The figures above for each number of sampled answers, with how they were taken."""
    torch.manual_seed(seed)
    problem_set = load_problems("countdown", train=0, warmstart=0, test=problems)
    chosen = problem_set.problems("test")
    language_model, tokenizer = load_model(model)
    engine, fmt = TransformersEngine(language_model, pad_id(tokenizer)), think_format(tokenizer)
    segment = make_segmenter("cues", min_paragraphs=0)
    prompts = [render(tokenizer, [{"role": "user", "content": problem.prompt}]) for problem in chosen]
    branches = [Branch(i, len(prompt)) for i, prompt in enumerate(prompts)]
    room = budget + len(fmt.close_ids) + fmt.max_answer_tokens
    written = engine.answers(engine.prefill(prompts), branches, traces, room, fmt.end_ids, purpose="sampled")
    asked, owners = [], []
    for i, group in enumerate(written):
        for ids in group.ids:
            trial = read_trial(ids, fmt, segment)
            if len(trial.thought) > budget:
                trial = read_trial(ids[:budget], fmt, segment)
            row = {"problem": chosen[i], "solutions": problem_set.solutions(chosen[i])}
            asked.append(Trace(tuple(prompts[i]), tuple(trial.thought), (0, *trial.ends), row, (), trial.closed))
            owners.append(i)

    def judge(rows: Any, texts: Any, ids: Any) -> list[float | None]:
        return [
            problem_set.grade(row["problem"], text, opened=True).reward for row, text in zip(rows, texts, strict=True)
        ]

    def run(probe: Any) -> tuple[list[tuple[float, ...]], int, float]:
        before, start = engine.positions["probed"], time.process_time()
        values = [one.values for one in probe(engine, fmt, asked, judge)]
        return values, engine.positions["probed"] - before, time.process_time() - start

    exact, gold_positions, gold_seconds = run(Gold())
    passes = sum(len(trace.prompt) + trace.cuts[-1] for trace in asked)  # each trace goes through the model once
    keys = [owner for owner, values in zip(owners, exact, strict=True) for _ in values]
    truth = np.array([value for values in exact for value in values])
    found: dict[str, Any] = {}
    for samples in SAMPLES:
        values, positions, seconds = run(Sampled(samples))
        estimate = np.array([value for row in values for value in row])
        found[f"sampled_{samples}"] = {
            **agreement(truth, estimate, keys, samples, seed),
            "cost_ratio": positions / gold_positions,
            "behind_the_pass": (positions - passes) / (gold_positions - passes),
            "seconds_ratio": seconds / gold_seconds,
        }
    return {
        "schema_version": 1,
        **found,
        "problems": problems,
        "traces": len(asked),
        "boundaries": len(truth),
        "mean_exact_j": float(truth.mean()),
        "gold_positions_a_boundary": gold_positions / len(truth),
        "settings": {"budget": budget, "seed": seed, "model": Path(model).parent.name or model},
        "commit": commit(),
        "versions": versions(),
    }


def agreement(truth: Any, estimate: Any, keys: list[int], samples: int, seed: int = 0) -> dict[str, Any]:
    """Correlation, ceiling, bias and coverage of an estimate of `truth` (boundaries,) from so many answers each."""
    known = ~np.isnan(truth) & ~np.isnan(estimate)
    x, y = truth[known], estimate[known]
    owners = [key for key, kept in zip(keys, known, strict=True) if kept]
    order = {key: i for i, key in enumerate(dict.fromkeys(owners))}
    sums = np.zeros((len(order), 6))
    np.add.at(sums, [order[key] for key in owners], np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1))
    noisy = np.random.default_rng(seed).binomial(samples, np.clip(x, 0, 1)) / samples
    error = np.sqrt(x * (1 - x) / samples)
    return {
        "correlation": asdict(bootstrap_sums(sums, _pearson)),
        "ceiling": float(np.corrcoef(x, noisy)[0, 1]),
        "bias": float((y - x).mean()),
        "coverage": float((np.abs(y - x) <= 2 * error + 1e-9).mean()),
    }


def _pearson(total: Any) -> Any:
    n, x, y, xx, yy, xy = np.moveaxis(total, -1, 0)
    spread = np.sqrt((n * xx - x * x) * (n * yy - y * y))
    return np.divide(n * xy - x * y, spread, out=np.full_like(spread, np.nan), where=spread > 0)


if __name__ == "__main__":
    sys.exit(main())
