"""Every estimator of J beside the truth, on the same held-out traces: how far off are J and progress, at what cost?

    python -m evals.reasoning.probe_agreement MODEL --json

MODEL writes traces on held-out problems, several a problem, as in training. J is measured at the same boundaries (at
most 6 a trace) by every estimator. The truth is `gold` (the exact chance of a right answer) or, where answers cannot be
listed, the mean of 64 independent answers (`--truth 64`). `--store FILE` writes the result.

    bias, rmse       of J, and of progress (the difference of neighbouring boundaries), against the truth
    correlation      Pearson's, over boundaries; interval over problems
    ceiling          the same, were J binomial around the truth with as many answers: what noise alone leaves
    coverage         share of boundaries where |J - truth| is at most 2 binomial standard errors
    positions        through the model a boundary, behind the pass over the trace, which acting has done
    seconds          a boundary

Against 64 answers the truth is noisy itself: `reliability` is the share of its variance (of progress) that is signal,
and no correlation can exceed its square root.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrt.metrics.bootstrap import bootstrap_sums
from mrt.reasoning.engines.opening import engine_on
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.models.loading import load_model, pad_id
from mrt.reasoning.probes.allocated import Allocated
from mrt.reasoning.probes.base import Probe
from mrt.reasoning.probes.forced import Sampled, Shrunk
from mrt.reasoning.probes.gold import Gold
from mrt.reasoning.probes.learned import Learned
from mrt.reasoning.probes.pooled import Pooled
from mrt.reasoning.probes.run import ProbePlan, ProbeRequest, probe_trials
from mrt.reasoning.probes.schedule import Schedule
from mrt.reasoning.problems import load_problems
from mrt.reasoning.problems.base import ProblemSet
from mrt.reasoning.traces.prompts import ThinkFormat, render, think_format
from mrt.reasoning.traces.segmentation import make_segmenter
from mrt.reasoning.traces.templates import prepare_thinking
from mrt.reasoning.traces.trial import Trial
from mrt.reasoning.training.samplers import Plain, SampleRequest
from mrt.runs.rundir import commit, versions, write_json

TINY = {"name": "countdown", "train": 0, "warmstart": 0}
Stops = list[list[float]]


def estimators(samples: int) -> dict[str, Probe]:
    """All that need a verifier alone, with so many answers a boundary where nothing else is said."""
    return {
        "independent": Sampled(samples),
        "independent, distinct answers weighed": Sampled(samples, weights="horvitz_thompson"),
        "allocated": Allocated(samples),
        "shrunk": Shrunk(samples),
        "coupled": Sampled(samples, coupled=True),
        "coupled, distinct answers weighed": Sampled(samples, coupled=True, weights="horvitz_thompson"),
        "pooled, 1 answer": Pooled(1),
        "pooled, 2 answers": Pooled(2),
        f"pooled, {samples} answers": Pooled(samples),
        "learned, coupled answers added": Learned(samples),
        "learned alone": Learned(samples, alone=True),
        "independent, 16 answers": Sampled(16),
    }


@dataclass
class Bench:
    """Traces on held-out problems, and all that probes need; `rows` of one problem follow each other."""

    engine: Any
    fmt: ThinkFormat
    judge: Callable[..., list[float | None]]
    prompts: list[list[int]]
    trials: list[Trial]
    rows: Sequence[Mapping[str, Any]]
    schedule: Schedule

    def run(self, probe: Probe, seed: int) -> tuple[Stops, int, float]:
        """Stop values of every trace, the positions that they took, and the seconds."""
        trials = [replace(trial, stop_values=[], errors=[]) for trial in self.trials]
        before, start = self.engine.positions["probed"], time.process_time()
        torch.manual_seed(seed)
        plan = ProbePlan(probe, self.fmt, self.judge, self.schedule)
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, prompt in enumerate(self.prompts):
            groups.setdefault(tuple(prompt), []).append(i)
        for chunk in _chunks(list(groups.values()), 8):  # eight problems at a time, as an update has them
            own, rows = [trials[i] for i in chunk], [self.rows[i] for i in chunk]
            request = ProbeRequest([self.prompts[i] for i in chunk], own, rows)
            probe_trials(self.engine, plan, request, torch.Generator().manual_seed(seed))
        seconds = time.process_time() - start
        return [trial.stop_values for trial in trials], self.engine.positions["probed"] - before, seconds


def main(argv: list[str] | None = None) -> int:
    """Parses, measures, prints; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a trained model; `gold` needs one of the tiny vocabulary")
    parser.add_argument("--set", type=json.loads, default=TINY, help="problem set and its options as JSON")
    parser.add_argument("--split", default="test")
    parser.add_argument("--problems", type=int, default=80)
    parser.add_argument("--traces", type=int, default=4, help="a problem")
    parser.add_argument("--budget", type=int, default=120, help="tokens of a completion at most")
    parser.add_argument("--samples", type=int, default=4, help="answers a boundary")
    parser.add_argument("--truth", type=int, default=0, help="independent answers a boundary; 0: exact")
    parser.add_argument("--segmenter", type=json.loads, default={"name": "cues", "min_paragraphs": 0})
    parser.add_argument("--thinking", default="auto", help="auto | tags | text, as in training")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--only", nargs="*", help="estimators by the beginning of their names")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--json", action="store_true")
    ns = parser.parse_args(argv)
    model, tokenizer = load_model(ns.model)
    engine = engine_on(model.to(getattr(torch, ns.dtype)), pad_id(tokenizer))
    bench, other = make_bench(ns, engine, tokenizer), make_bench(ns, engine, tokenizer, ns.problems)
    found = measure(bench, other, ns)
    if ns.store:
        write_json(ns.store, found)
    print(json.dumps(found) if ns.json else table(found))
    return 0


def make_bench(ns: argparse.Namespace, engine: Any, tokenizer: Any, first: int = 0) -> Bench:
    """The traces on problems from `first` on, with what acting leaves of them."""
    torch.manual_seed(ns.seed)
    options = dict(ns.set)
    if options == TINY:
        options["test"] = 2 * ns.problems
    problem_set = load_problems(**options)
    chosen = problem_set.problems(ns.split)[first : first + ns.problems]
    fmt = think_format(tokenizer, tags=prepare_thinking(tokenizer, ns.thinking, None))
    own = dict(ns.segmenter)
    sampler = Plain(fmt, make_segmenter(own.pop("name"), **own))
    prompts = [render(tokenizer, [{"role": "user", "content": p.prompt}]) for p in chosen for _ in range(ns.traces)]
    rows = [_row(problem_set, problem) for problem in chosen for _ in range(ns.traces)]
    trials: list[Trial] = []
    for start in range(0, len(prompts), 8 * ns.traces):
        part = slice(start, start + 8 * ns.traces)
        request = SampleRequest(prompts[part], rows[part], ns.traces, ns.budget, Sampling(), keep=True)
        trials += sampler.sample(engine, request)

    def judge(rows: Any, texts: Any, ids: Any) -> list[float | None]:
        return [
            problem_set.grade(row["problem"], text, opened=True).reward for row, text in zip(rows, texts, strict=True)
        ]

    return Bench(engine, fmt, judge, prompts, trials, rows, Schedule(at_most=6))


def _row(problem_set: ProblemSet, problem: Any) -> dict[str, Any]:
    listed = problem_set.solutions(problem)
    return {"problem": problem, "solution": problem.solution} | ({"solutions": listed} if listed else {})


def measure(bench: Bench, other: Bench, ns: argparse.Namespace) -> dict[str, Any]:
    """The figures above for every estimator, with how they were taken; what learns has learned on the `other` bench."""
    truth, positions, seconds = bench.run(Sampled(ns.truth) if ns.truth else Gold(), seed=10_000 + ns.seed)
    keys = [tuple(prompt) for prompt in bench.prompts]
    count = sum(value == value for row in truth for value in row)
    costs = {"positions": positions / count, "seconds": seconds / count}
    found: dict[str, Any] = {"truth": costs | {"reliability": reliability(truth, ns.truth)}}
    for name, probe in estimators(ns.samples).items():
        if ns.only and not name.startswith(tuple(ns.only)):
            continue
        if isinstance(probe, Learned):
            other.run(probe, seed=2 + ns.seed)
        values, positions, seconds = bench.run(probe, seed=1 + ns.seed)
        found[name] = compared(truth, values, keys, getattr(probe, "samples", 0), ns.seed)
        found[name] |= {"positions": positions / count, "seconds": seconds / count}
        print(f"{name}: {line(found[name])}", file=sys.stderr, flush=True)
    return {
        "schema_version": 2,
        "estimators": found,
        "problems": len(set(keys)),
        "traces": len(bench.trials),
        "boundaries": count,
        "mean_j": float(np.nanmean([value for row in truth for value in row])),
        "deviation_of_progress": float(np.nanstd(np.concatenate([gains(row) for row in truth]))),
        "settings": {
            "budget": ns.budget, "seed": ns.seed, "truth": ns.truth, "samples": ns.samples, "dtype": ns.dtype,
            "set": ns.set["name"], "model": Path(ns.model).parent.name or ns.model,
        },
        "commit": commit(),
        "versions": versions(),
    }  # fmt: skip


def compared(truth: Stops, values: Stops, keys: Sequence[Any], samples: int, seed: int) -> dict[str, Any]:
    """`agreement` of J and of progress, over boundaries that belong to the problems `keys`."""
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    of_j = [numbers[key] for key, row in zip(keys, truth, strict=True) for _ in row]
    of_progress = [numbers[key] for key, row in zip(keys, truth, strict=True) for _ in gains(row)]
    x, y = (np.array([value for row in rows for value in row]) for rows in (truth, values))
    dx, dy = (np.concatenate([gains(row) for row in rows]) for rows in (truth, values))
    return {"j": agreement(x, y, of_j, samples, seed), "progress": agreement(dx, dy, of_progress, 0, seed)}


def gains(row: Sequence[float]) -> Any:
    """Differences of neighbouring measured values."""
    return np.diff([value for value in row if value == value])


def reliability(truth: Stops, samples: int) -> float:
    """The share of the variance of progress that is signal, where J was estimated from so many independent answers."""
    if not samples:
        return 1.0
    moved = np.concatenate([gains(row) for row in truth])
    j = np.array([value for row in truth for value in row if value == value])
    noise = 2 * float((j * (1 - j)).mean()) / (samples - 1)
    return max(0.0, 1 - noise / float(moved.var()))


def agreement(truth: Any, estimate: Any, keys: Sequence[int], samples: int = 0, seed: int = 0) -> dict[str, Any]:
    """Correlation, bias and root mean squared error of an estimate of `truth` (boundaries,); with `samples`, so many
    answers each, the binomial ceiling and coverage too.
    """
    known = ~np.isnan(truth) & ~np.isnan(estimate)
    x, y = truth[known], estimate[known]
    owners = [key for key, kept in zip(keys, known, strict=True) if kept]
    order = {key: i for i, key in enumerate(dict.fromkeys(owners))}
    sums = np.zeros((len(order), 6))
    np.add.at(sums, [order[key] for key in owners], np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1))
    found: dict[str, Any] = {
        "correlation": asdict(bootstrap_sums(sums, _pearson)),
        "bias": float((y - x).mean()),
        "rmse": float(np.sqrt(((y - x) ** 2).mean())),
    }
    if samples:
        noisy = np.random.default_rng(seed).binomial(samples, np.clip(x, 0, 1)) / samples
        error = np.sqrt(np.clip(x * (1 - x), 0, None) / samples)
        found["ceiling"] = float(np.corrcoef(x, noisy)[0, 1])
        found["coverage"] = float((np.abs(y - x) <= 2 * error + 1e-9).mean())
    return found


def _pearson(total: Any) -> Any:
    n, x, y, xx, yy, xy = np.moveaxis(total, -1, 0)
    spread = np.sqrt((n * xx - x * x) * (n * yy - y * y))
    return np.divide(n * xy - x * y, spread, out=np.full_like(spread, np.nan), where=spread > 0)


def _chunks(groups: list[list[int]], size: int) -> list[list[int]]:
    return [[i for group in groups[start : start + size] for i in group] for start in range(0, len(groups), size)]


def line(one: Mapping[str, Any]) -> str:
    """One estimator in a row of `table`."""
    cells = [f"{one[of][name]:.3f}" for of in ("j", "progress") for name in ("bias", "rmse")]
    r = [f"{one[of]['correlation'][name]:.3f}" for of in ("j", "progress") for name in ("mean", "low", "high")]
    j, p = f"{cells[0]} | {cells[1]} | {r[0]}", f"{cells[2]} | {cells[3]} | {r[3]} [{r[4]}, {r[5]}]"
    return f"{j} | {p} | {one['positions']:.1f} | {1000 * one['seconds']:.2f}"


def table(found: Mapping[str, Any]) -> str:
    """The estimators as a table."""
    head = "estimator | J bias | J rmse | J r | progress bias | progress rmse | progress r | positions | ms"
    rows = [f"| {name} | {line(one)} |" for name, one in found["estimators"].items() if name != "truth"]
    rest = {key: value for key, value in found.items() if key not in ("estimators", "versions")}
    return "\n".join([f"| {head} |", "|---" * 9 + "|", *rows, *(f"{key}: {value}" for key, value in rest.items())])


if __name__ == "__main__":
    sys.exit(main())
