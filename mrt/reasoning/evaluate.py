"""Measuring a model: samples on held-out problems, J after every episode, and the answers forced at each token budget.

Samples are appended to samples.jsonl, a chunk of problems at a time, and never generated twice: a run that was killed
goes on behind its last whole chunk. Every chunk draws from its own seed, so the samples do not depend on where a run
was interrupted.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from mrt.errors import ConfigError, DataError
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.engines.transformers import Branch, TransformersEngine
from mrt.reasoning.grading import Grade, Verdict
from mrt.reasoning.loading import load_model, pad_id
from mrt.reasoning.probes import MAX_SOLUTIONS, Probe, Trace, force_answers, make_probe
from mrt.reasoning.problems import Problem, ProblemSet, load_problems
from mrt.reasoning.prompts import ThinkFormat, render, think_format
from mrt.reasoning.samples import append, claim, whole_chunks
from mrt.reasoning.schedule import Schedule
from mrt.reasoning.segmentation import make_segmenter
from mrt.reasoning.summary import compare as compare
from mrt.reasoning.summary import summarise
from mrt.reasoning.trial import Trial, probe_trials, read_trial
from mrt.rundir import write_json

CHUNK = 50  # problems sampled together


@dataclass(frozen=True)
class EvalConfig:
    """What decides the samples; a folder holds the evaluation of one such setting."""

    model: str
    problems: str
    dials: Mapping[str, Any] = field(default_factory=dict)
    split: str = "test"
    n: int = 4
    budgets: tuple[int, ...] = ()
    limit: int | None = None
    seed: int = 0
    probe: str = "auto"
    probe_samples: int = 4
    segmenter: str = "cues"
    segmenter_options: Mapping[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    answer_tokens: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**vars(self), "dials": dict(self.dials), "budgets": list(self.budgets)} | {
            "segmenter_options": dict(self.segmenter_options)
        }


def run_eval(
    model: str,
    problems: str,
    out: Path,
    dials: Mapping[str, Any] | None = None,
    split: str = "test",
    n: int = 4,
    budgets: Sequence[int] | None = None,
    limit: int | None = None,
    seed: int = 0,
    name: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Samples, grades and probes `model` on a split of a problem set and writes eval.json, samples.jsonl and
    results.json to `out`.

    Args:
        budgets: thinking tokens at which an answer is forced; the last one is the full budget. Default: 0, 10, ... 100
            for Countdown, powers of two up to 8,192 elsewhere.
        options: further fields of `EvalConfig`.

    Returns:
        The contents of results.json.

    Raises:
        ConfigError: when `out` holds another evaluation, or an option cannot work.
    """
    grid = tuple(budgets or (range(0, 121, 15) if problems == "countdown" else (0, *(2**k for k in range(8, 14)))))
    if n < 1 or list(grid) != sorted(set(grid)) or grid[-1] < 1:
        raise ConfigError(f"n={n} must be at least 1 and budgets {list(grid)} must ascend to a positive number")
    if problems == "countdown":
        options.setdefault("segmenter_options", {"min_paragraphs": 0})  # an attempt is one paragraph
    config = EvalConfig(model, problems, dials or {}, split, n, grid, limit, seed, **options)
    problem_set = load_problems(problems, **config.dials)
    chosen = problem_set.problems(split)[:limit]
    if not chosen:
        raise DataError(f"problem set '{problems}' has no problem in split '{split}'")
    out.mkdir(parents=True, exist_ok=True)
    claim(out, config.to_dict(), name or Path(model).name)
    samples = out / "samples.jsonl"
    done = whole_chunks(samples, [p.key for p in chosen], n, CHUNK)
    if done < len(chosen):
        evaluator = Evaluator(config, problem_set, chosen)
        with tqdm(total=len(chosen), initial=done, desc=f"eval {name or model}", unit="problem") as bar:
            for start in range(done, len(chosen), CHUNK):
                chunk = chosen[start : start + CHUNK]
                append(samples, evaluator.sample(chunk, start // CHUNK))
                bar.update(len(chunk))
                bar.set_postfix_str(evaluator.progress)
    results = summarise(out)
    write_json(out / "results.json", results)
    return results


@dataclass(frozen=True)
class _Asked:
    """One sample: the problem, its prompt's ids, the trial that followed, every accepted answer."""

    problem: Problem
    prompt: tuple[int, ...]
    trial: Trial
    solutions: Sequence[str]

    @property
    def row(self) -> dict[str, Any]:
        """What probe and judge read of the problem."""
        return {"problem": self.problem, "solution": self.problem.solution, "solutions": self.solutions}

    def trace(self, cuts: Sequence[int]) -> Trace:
        """The thought, to be stopped at `cuts`."""
        trial = self.trial
        opening = tuple(trial.completion[: trial.start])
        return Trace(self.prompt, tuple(trial.thought), tuple(cuts), self.row, opening, trial.closed, trial.kept)


class Evaluator:
    """One model on the chosen problems of a set: `sample(problems, chunk)` gives the rows of samples.jsonl."""

    def __init__(self, config: EvalConfig, problem_set: ProblemSet, chosen: Sequence[Problem]) -> None:
        self.config, self.problem_set = config, problem_set
        self.solutions = {problem.key: problem_set.solutions(problem) for problem in chosen}
        self.probe = self._choose_probe()
        model, self.tokenizer = load_model(config.model)
        self.engine = TransformersEngine(model, pad_id(self.tokenizer))
        self.fmt: ThinkFormat = think_format(self.tokenizer)
        self.segment = make_segmenter(config.segmenter, **config.segmenter_options)
        self.correct, self.graded = 0.0, 0

    @property
    def progress(self) -> str:
        """Running accuracy at the full budget, with twice its standard error."""
        mean = self.correct / max(self.graded, 1)
        return f"accuracy {mean:.3f} ± {2 * math.sqrt(mean * (1 - mean) / max(self.graded, 1)):.3f}"

    def sample(self, problems: Sequence[Problem], chunk: int) -> list[dict[str, Any]]:
        """The rows of `problems`, `n` samples each, drawn from the seed of this chunk."""
        digest = hashlib.sha256(f"{self.config.seed}:{chunk}".encode()).digest()
        with torch.random.fork_rng():
            torch.manual_seed(int.from_bytes(digest[:7], "big"))
            prompts = [render(self.tokenizer, [{"role": "user", "content": p.prompt}]) for p in problems]
            trials = self._think(prompts)
            owners = [i for i in range(len(problems)) for _ in range(self.config.n)]
            asked = [
                _Asked(problems[i], tuple(prompts[i]), trial, self.solutions[problems[i].key])
                for i, trial in zip(owners, trials, strict=True)
            ]
            rows = [self._row(one) for one in asked]
            self._force(rows, asked)
            self._probe(rows, asked)
        for position, row in enumerate(rows):
            row["sample"] = position % self.config.n
        return rows

    def _think(self, prompts: Sequence[Sequence[int]]) -> list[Trial]:
        """`n` completions of every prompt; a thought still open at the full budget is cut there."""
        full = self.config.budgets[-1]
        answer = self.config.answer_tokens or self.fmt.max_answer_tokens
        sampling = Sampling(temperature=self.config.temperature)
        branches = [Branch(i, len(prompt)) for i, prompt in enumerate(prompts)]
        most = max(map(len, prompts)) + full + len(self.fmt.close_ids) + answer
        keep = len(prompts) * self.config.n * most <= self.engine.max_positions
        sampled = self.engine.answers(
            self.engine.prefill(prompts),
            branches,
            self.config.n,
            full + len(self.fmt.close_ids) + answer,
            self.fmt.end_ids,
            sampling,
            "sampled",
            keep,
        )
        trials = []
        for group in sampled:
            for ids, kept in zip_longest(group.ids, group.kept):
                trial = read_trial(ids, self.fmt, self.segment)
                if len(trial.thought) > full:
                    trial = read_trial(ids[: trial.start + full], self.fmt, self.segment)
                trial.kept = kept
                trials.append(trial)
        return trials

    def _row(self, one: _Asked) -> dict[str, Any]:
        decode, problem, trial = self.tokenizer.decode, one.problem, one.trial
        after = trial.completion[trial.start + len(trial.thought) :]
        text = decode(trial.completion, skip_special_tokens=True)
        grade = self.problem_set.grade(problem, text, opened=True) if trial.closed else Grade(Verdict.TRUNCATED)
        begins = [0, *trial.ends][: len(trial.ends)]
        return {
            "key": problem.key,
            "sample": 0,
            "prompt": problem.prompt,
            "data": dict(problem.data),
            "solution": problem.solution,
            "thought": decode(trial.thought),
            "answer": grade.extracted or decode(after[len(self.fmt.close_ids) :], skip_special_tokens=True),
            "verdict": str(grade.verdict),
            "reward": grade.reward,
            "thinking_tokens": len(trial.thought),
            "tokens": len(trial.completion),
            "truncated": not trial.closed,
            "episodes": [
                {"text": decode(trial.thought[begin:end]), "tokens": end - begin, "end": end}
                for begin, end in zip(begins, trial.ends, strict=True)
            ],
        }

    def _force(self, rows: list[dict[str, Any]], asked: Sequence[_Asked]) -> None:
        """One forced answer at every budget that the thought reached before it ended."""
        budgets = [self._reached(one.trial) for one in asked]
        traces = [one.trace(cuts) for one, cuts in zip(asked, budgets, strict=True)]
        answers = force_answers(self.engine, self.fmt, traces, 1, Sampling(temperature=self.config.temperature))
        for row, one, cuts, forced in zip(rows, asked, budgets, answers, strict=True):
            row["forced"] = []
            for budget, (answer,) in zip(cuts, forced, strict=True):
                text = self.tokenizer.decode(answer.completion, skip_special_tokens=True)
                grade = self.problem_set.grade(one.problem, text, opened=True)
                item = {"budget": budget, "answer": answer.text, "verdict": str(grade.verdict), "reward": grade.reward}
                row["forced"].append(item)
            at_full = row["forced"][-1]["reward"] if row["truncated"] and row["forced"] else row["reward"]
            if at_full is not None:
                self.correct, self.graded = self.correct + at_full, self.graded + 1

    def _reached(self, trial: Trial) -> list[int]:
        length = len(trial.thought)
        return [b for b in self.config.budgets if b < length or (b == length and not trial.closed)]

    def _probe(self, rows: list[dict[str, Any]], asked: Sequence[_Asked]) -> None:
        """J_0..J_K of every trace."""

        def judge(owners: Sequence[Any], texts: Sequence[str], ids: Any) -> list[float | None]:
            graded = zip(owners, texts, strict=True)
            return [self.problem_set.grade(row["problem"], text, opened=True).reward for row, text in graded]

        trials = [one.trial for one in asked]
        prompts, known = [one.prompt for one in asked], [one.row for one in asked]
        everything = Schedule(), judge, prompts, trials, known, torch.Generator()
        probe_trials(self.engine, self.fmt, self.probe, *everything)
        for row, trial in zip(rows, trials, strict=True):
            row["stop_values"] = [_number(value) for value in trial.stop_values]
            row["stop_value_se"] = [_number(value) for value in trial.errors]

    def _choose_probe(self) -> Probe:
        """`auto`: the exact probe where all answers of all problems can be listed, forced samples elsewhere."""
        if self.config.probe != "auto":
            return make_probe(self.config.probe, self.config.probe_samples)
        listed = all(0 < len(solutions) <= MAX_SOLUTIONS for solutions in self.solutions.values())
        return make_probe("gold" if listed else "sampled", self.config.probe_samples)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
