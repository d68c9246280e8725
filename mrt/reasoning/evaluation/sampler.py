"""One model on the chosen problems of a set: what it writes, what it answers when stopped, and what that is worth."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mrt.errors import ConfigError
from mrt.reasoning.engines.opening import open_engine
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.evaluation.config import EvalConfig
from mrt.reasoning.evaluation.examples import Examples
from mrt.reasoning.evaluation.thoughts import Thinker
from mrt.reasoning.grading.verdict import Grade, Verdict
from mrt.reasoning.inference.longer import Extension, Stop, Window, extend, linearize
from mrt.reasoning.probes.base import MAX_SOLUTIONS, Probe, Trace
from mrt.reasoning.probes.forced import Forced, Sampled, force_answers
from mrt.reasoning.probes.run import ProbePlan, ProbeRequest, probe_trials
from mrt.reasoning.probes.table import make_probe
from mrt.reasoning.problems import Problem, ProblemSet
from mrt.reasoning.traces.prompts import ThinkFormat, render, think_format
from mrt.reasoning.traces.segmentation import make_segmenter
from mrt.reasoning.traces.templates import prepare_thinking
from mrt.reasoning.traces.trial import Trial


@dataclass(frozen=True)
class Asked:
    """One sample: the problem, its prompt's ids, the trial that followed, every accepted answer."""

    problem: Problem
    prompt: tuple[int, ...]
    trial: Trial
    solutions: Sequence[str]

    @property
    def row(self) -> dict[str, Any]:
        """What probe and judge read of the problem."""
        return {"problem": self.problem, "solution": self.problem.solution, "solutions": self.solutions}

    @property
    def opening(self) -> tuple[int, ...]:
        """Ids of the completion before the thought."""
        return tuple(self.trial.completion[: self.trial.start])

    def trace(self, cuts: Sequence[int]) -> Trace:
        """The thought, to be stopped at `cuts`."""
        trial = self.trial
        return Trace(self.prompt, tuple(trial.thought), tuple(cuts), self.row, self.opening, trial.closed, trial.kept)


class Evaluator:
    """`sample(problems, chunk)` gives the rows of samples.jsonl."""

    def __init__(
        self, config: EvalConfig, problem_set: ProblemSet, chosen: Sequence[Problem], examples: Examples | None = None
    ) -> None:
        self.config, self.problem_set, self.examples = config, problem_set, examples or Examples()
        self.solutions = {problem.key: problem_set.solutions(problem) for problem in chosen}
        self.probe = choose_probe(config, self.solutions.values())
        opened = open_engine(config.model, config.engine, config.engine_options)
        self.engine, self.tokenizer, self.context = opened.engine, opened.tokenizer, opened.context
        self.tags = prepare_thinking(self.tokenizer, config.thinking, config.think_tags)
        fmt = think_format(self.tokenizer, tags=self.tags)
        self.fmt: ThinkFormat = replace(fmt, max_answer_tokens=config.answer_tokens or fmt.max_answer_tokens)
        self.segment = make_segmenter(config.segmenter, **config.segmenter_options)
        self.sampling = Sampling(config.temperature, config.top_p, config.top_k)
        self.accuracies: list[float] = []  # of every problem so far, at the full budget
        self.started = time.monotonic()

    @property
    def progress(self) -> str:
        """Running accuracy at the full budget with its 95 % interval over problems, tokens written a second."""
        speed = self.engine.counts.decoded / max(time.monotonic() - self.started, 1e-9)
        n = len(self.accuracies)
        if not n:
            return f"{speed:,.0f} tokens/s"
        mean = sum(self.accuracies) / n
        variance = sum((one - mean) ** 2 for one in self.accuracies) / (n - 1) if n > 1 else math.nan
        reach = f"{1.96 * math.sqrt(variance / n):.3f}" if n > 1 else "?"
        return f"accuracy {mean:.3f} ± {reach}, {speed:,.0f} tokens/s"

    def sample(self, problems: Sequence[Problem], chunk: int) -> list[dict[str, Any]]:
        """The rows of `problems`, `n` samples each, drawn from the seed of this chunk."""
        digest = hashlib.sha256(f"{self.config.seed}:{chunk}".encode()).digest()
        with torch.random.fork_rng():
            torch.manual_seed(int.from_bytes(digest[:7], "big"))
            asked_for = [self.examples(problem, self.tags) for problem in problems]
            prompts = [render(self.tokenizer, messages, tags=self.tags) for messages in asked_for]
            self._check_context(prompts)
            trials = Thinker(self.engine, self.fmt, self.segment, config=self.config, context=self.context)(prompts)
            owners = [i for i in range(len(problems)) for _ in range(self.config.n)]
            asked = [
                Asked(problems[i], tuple(prompts[i]), trial, self.solutions[problems[i].key])
                for i, trial in zip(owners, trials, strict=True)
            ]
            rows = [self._row(one) for one in asked]
            self._force(rows, asked)
            self._vote(rows, asked)
            self._measure(rows, asked)
            self._go_beyond(rows, asked)
        for position, row in enumerate(rows):
            row["sample"] = position % self.config.n
        return rows

    def _check_context(self, prompts: Sequence[Sequence[int]]) -> None:
        extra = self.config.extension_tokens * max(self.config.extensions, default=0)
        answer = len(self.fmt.forced_ids) + self.fmt.max_answer_tokens
        most = max(map(len, prompts)) + self.config.full + extra + answer
        if self.context and most > self.context:
            raise ConfigError(
                f"prompt, {self.config.full + extra} thinking tokens and answer take {most} positions, more than the "
                f"{self.context} of '{self.config.model}'. Cure: smaller budgets, fewer extensions, or a larger "
                "max_model_len where vLLM was started with a small one"
            )

    def _row(self, one: Asked) -> dict[str, Any]:
        decode, problem, trial = self.tokenizer.decode, one.problem, one.trial
        after = trial.completion[trial.start + len(trial.thought) :]
        response = self.fmt.answer_part(after)
        grade = self.problem_set.grade(problem, response, opened=True) if trial.closed else Grade(Verdict.TRUNCATED)
        begins = [0, *trial.ends][: len(trial.ends)]
        return {
            "key": problem.key,
            "sample": 0,
            "prompt": problem.prompt,
            "data": dict(problem.data),
            "solution": problem.solution,
            "thought": decode(trial.thought),
            "response": response,
            "answer": grade.extracted or self.fmt.texts(after)[1] or "",
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

    def _answers(self, traces: Sequence[Trace], samples: int) -> list[list[list[Forced]]]:
        return force_answers(self.engine, self.fmt, traces, samples, self.sampling)

    def _item(self, problem: Problem, answer: Forced, before: int) -> dict[str, Any]:
        """One forced answer, graded; `before` ids of its completion are opening and thought."""
        response = self.fmt.answer_part(answer.completion[before:])
        grade = self.problem_set.grade(problem, response, opened=True)
        return {
            "answer": answer.text,
            "response": response,
            "verdict": str(grade.verdict),
            "reward": grade.reward,
        }

    def _force(self, rows: list[dict[str, Any]], asked: Sequence[Asked]) -> None:
        """One forced answer at every budget that the thought reached before it ended."""
        budgets = [self._reached(one.trial) for one in asked]
        answers = self._answers([one.trace(cuts) for one, cuts in zip(asked, budgets, strict=True)], 1)
        at_full: list[list[float]] = [[] for _ in range(len(rows) // self.config.n)]
        for place, (row, one, cuts, forced) in enumerate(zip(rows, asked, budgets, answers, strict=True)):
            row["forced"] = [
                {"budget": budget, **self._item(one.problem, answer, len(one.opening) + budget)}
                for budget, (answer,) in zip(cuts, forced, strict=True)
            ]
            reward = row["forced"][-1]["reward"] if row["truncated"] and row["forced"] else row["reward"]
            if reward is not None:
                at_full[place // self.config.n].append(reward)
        self.accuracies += [sum(rewards) / len(rewards) for rewards in at_full if rewards]

    def _reached(self, trial: Trial) -> list[int]:
        length = len(trial.thought)
        return [b for b in self.config.budgets if b < length or (b == length and not trial.closed)]

    def _vote(self, rows: list[dict[str, Any]], asked: Sequence[Asked]) -> None:
        """Several forced answers at every boundary, for [maj@p]_j; J as well where the probe samples anyway."""
        sampled = self.probe if isinstance(self.probe, Sampled) and self.probe.sampling.temperature > 0 else None
        count = max(self.config.votes, sampled.samples if sampled else 0)
        if not count:
            return
        cuts = [(0, *one.trial.ends) for one in asked]
        answers = self._answers([one.trace(places) for one, places in zip(asked, cuts, strict=True)], count)
        for row, one, places, forced in zip(rows, asked, cuts, answers, strict=True):
            row["votes"] = [
                [self._item(one.problem, answer, len(one.opening) + cut) for answer in group]
                for cut, group in zip(places, forced, strict=True)
            ]
            if sampled:
                row["stop_values"], row["stop_value_se"] = values_from_votes(row["votes"], sampled)

    def _measure(self, rows: list[dict[str, Any]], asked: Sequence[Asked]) -> None:
        """J_0..J_K of every trace by a probe that does not sample."""
        trials = [one.trial for one in asked]
        if "stop_values" not in rows[0]:

            def judge(owners: Sequence[Any], texts: Sequence[str], ids: Any) -> list[float | None]:
                graded = zip(owners, map(self.fmt.plain_text, ids), strict=True)
                return [self.problem_set.grade(row["problem"], text, opened=True).reward for row, text in graded]

            prompts, known = [one.prompt for one in asked], [one.row for one in asked]
            request = ProbeRequest(prompts, trials, known)
            probe_trials(self.engine, ProbePlan(self.probe, self.fmt, judge), request, torch.Generator())
            for row, trial in zip(rows, trials, strict=True):
                row["stop_values"] = [_number(value) for value in trial.stop_values]
                row["stop_value_se"] = [_number(value) for value in trial.errors]
        for trial in trials:
            trial.kept = None

    def _go_beyond(self, rows: list[dict[str, Any]], asked: Sequence[Asked]) -> None:
        """Extrapolation by continue cues, and the linearized evaluation, where they are asked for."""
        config, prefixes = self.config, [[*one.prompt, *one.opening] for one in asked]
        if config.extensions:
            thoughts = [one.trial.thought for one in asked]
            extension = Extension(config.full, config.extensions, config.extension_tokens, config.cues, self.sampling)
            found = extend(self.engine, self.fmt, prefixes, thoughts, extension)
            self._answer_stops("extended", rows, asked, found)
        if config.window:
            budgets = config.window_budgets or config.budgets
            window = Window(budgets, config.window, config.window_tokens, self.sampling)
            found = linearize(self.engine, self.fmt, prefixes, self.segment, window)
            self._answer_stops("linearized", rows, asked, found)

    def _answer_stops(self, name: str, rows: Any, asked: Sequence[Asked], found: Sequence[Sequence[Stop]]) -> None:
        flat = [(one, stop) for one, stops in zip(asked, found, strict=True) for stop in stops]
        traces = [
            Trace(one.prompt, stop.thought, (len(stop.thought),), one.row, one.opening, stop.closed)
            for one, stop in flat
        ]
        answers = iter(self._answers(traces, 1))
        for row, one, stops in zip(rows, asked, found, strict=True):
            row[name] = []
            for stop in stops:
                ((answer,),) = next(answers)
                item = self._item(one.problem, answer, len(one.opening) + len(stop.thought))
                row[name].append({"budget": stop.budget, "thinking_tokens": stop.tokens, "cut": stop.cut, **item})


def choose_probe(config: EvalConfig, solutions: Iterable[Sequence[str]]) -> Probe:
    """`auto`: the exact probe where all answers of all problems can be listed, forced samples elsewhere."""
    if config.probe != "auto":
        return make_probe(config.probe, config.probe_samples)
    listed = all(0 < len(one) <= MAX_SOLUTIONS for one in solutions)
    return make_probe("gold" if listed else "sampled", config.probe_samples)


def values_from_votes(votes: Sequence[Sequence[Any]], probe: Sampled) -> tuple[list[float | None], list[float | None]]:
    """J and its standard error at every boundary from the answers forced there."""
    pairs = [probe.estimate([one["reward"] for one in group if one["reward"] is not None]) for group in votes]
    return [_number(value) for value, _ in pairs], [_number(error) for _, error in pairs]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
