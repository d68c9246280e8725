"""Rollouts: how the trials of a batch are sampled, segmented into episodes and probed. TRL calls one as its
`rollout_func`.

probed  whole traces from the policy, probed at their boundaries (MRT with per-episode progress).
mixed   the paper's group (Qu et al. 2025, 2503.07572, section 6.2): a prefix cut after a random number of episodes;
half of the group
        goes on thinking, half is forced to answer. The forced half supplies J(mu | prefix) inside the group's own
        normalisation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import torch

from mrt.errors import ConfigError
from mrt.reasoning.engines.attach import engine_of, samples_plainly, sampling_of
from mrt.reasoning.engines.base import Answers, Branch, Counts, Engine
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.probes.base import Judge, Probe
from mrt.reasoning.probes.run import probe_trials
from mrt.reasoning.probes.schedule import Schedule
from mrt.reasoning.traces.prompts import ThinkFormat, forced_prefix, thought_span
from mrt.reasoning.traces.trial import Segment, Trial, read_trial


@dataclass
class PrefixPool:
    """Traces to cut prefixes from, by task key, with the step at which each was sampled. Older than `max_age` steps is
    stale.
    """

    max_age: int = 0
    traces: dict[str, dict[str, Any]] = field(default_factory=dict)

    def take(self, key: str, step: int) -> tuple[list[int], int] | None:
        """(completion ids, age in steps) of a trace that is not too old, or None."""
        entry = self.traces.get(key)
        if entry is None or step - entry["step"] > self.max_age:
            return None
        return list(entry["ids"]), step - entry["step"]

    def put(self, key: str, ids: Sequence[int], step: int) -> None:
        """Refreshes the trace of `key`."""
        if self.max_age > 0:
            self.traces[key] = {"ids": list(ids), "step": step}

    def state_dict(self) -> dict[str, Any]:
        return {"traces": self.traces}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.traces = dict(state["traces"])


@dataclass
class Rollout:
    """TRL's `rollout_func` for MRT: `rollout(prompts, trainer)` -> prompt_ids, completion_ids, logprobs, trial[,
    env_mask].
    """

    fmt: ThinkFormat
    segment: Segment
    judge: Judge
    probe: Probe | None = None
    schedule: Schedule = field(default_factory=Schedule)
    kind: str = "probed"
    train_forced: bool = False
    budget: int | None = None
    pool: PrefixPool = field(default_factory=PrefixPool)
    cost: dict[str, int] = field(default_factory=lambda: {"sampled": 0, "probed": 0})
    counts: Counts = field(default_factory=Counts)  # of the tokens since `take_counts`

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        rows = trainer.rollout_rows
        prompt_ids, images, multimodal = trainer._tokenize_prompts(prompts)
        if images is not None:
            raise NotImplementedError("probes read token ids only: prompts with images cannot be probed")
        size = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
        logprobs = None
        if self.kind == "mixed" and trainer.model.training:
            with self._counted(trainer) as engine:
                trials = self._mixed(engine, trainer, prompt_ids, rows, size)
        elif samples_plainly(trainer):
            with self._counted(trainer) as engine:
                trials = self._act(engine, trainer, prompt_ids, size)
        elif self.budget is not None:
            raise ConfigError("thinking_budget goes with temperature, top_p and top_k only")
        else:
            completions, logprobs = trainer._generate_single_turn(prompt_ids, images, multimodal, size)
            trials = [read_trial(ids, self.fmt, self.segment) for ids in completions]
            given, drawn = sum(map(len, prompt_ids)), sum(map(len, completions))
            self.cost["sampled"] += given + drawn
            self.counts += Counts(given, given, drawn)
        if self.probe is not None:
            # The choice of boundaries follows the global random state, which checkpoints keep.
            generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
            with self._counted(trainer) as engine:
                probe_trials(
                    engine, self.fmt, self.probe, self.schedule, self.judge, prompt_ids, trials, rows, generator
                )
                self.cost["probed"] += engine.positions["probed"]
        if trainer.use_vllm and logprobs is None:
            logprobs = [trial.logprobs for trial in trials]
        output = {
            "prompt_ids": prompt_ids,
            "completion_ids": [trial.completion for trial in trials],
            "logprobs": logprobs,
            "trial": trials,
        }
        if self.budget is not None or any(trial.chosen is not None for trial in trials):
            output["env_mask"] = [trial.chosen or [1] * len(trial.completion) for trial in trials]
        return output

    def take_counts(self) -> Counts:
        """Tokens prefilled, reused and decoded since the last call."""
        counts, self.counts = self.counts, Counts()
        return counts

    @contextmanager
    def _counted(self, trainer: Any) -> Iterator[Engine]:
        with engine_of(trainer) as engine:
            yield engine
            self.counts += engine.counts

    def _act(self, engine: Engine, trainer: Any, prompt_ids: list[list[int]], size: int) -> list[Trial]:
        """A trial of every prompt. The prompt of a group runs once; keys and values stay for the probes."""
        starts = prompt_ids[::size]
        limit = trainer.max_completion_length
        fits = len(prompt_ids) * (max(map(len, prompt_ids)) + limit) <= engine.max_positions
        keep = fits and (self.probe is not None or self.budget is not None)
        groups = self._continue(engine, starts, [self.budget or limit] * len(starts), size, sampling_of(trainer), keep)
        trials = []
        for group in groups:
            for ids, logprobs, kept in zip_longest(group.ids, group.logprobs, group.kept):
                trial = read_trial(ids, self.fmt, self.segment)
                trial.logprobs, trial.kept = logprobs, kept
                trials.append(trial)
        if self.budget is not None:
            self._finish(engine, trainer, prompt_ids, trials)
        self.cost["sampled"] += engine.positions["sampled"]
        return trials

    def _finish(self, engine: Engine, trainer: Any, prompt_ids: list[list[int]], trials: Sequence[Trial]) -> None:
        """Trials that used up the thinking budget: an open thought is closed and answered, an answer goes on.

        The close is given, not chosen; the answer is the policy's own. The trial's stop stays BUDGET.
        """
        rows = [i for i, trial in enumerate(trials) if trial.completion[-1] not in self.fmt.end_ids]
        if not rows:
            return
        before = [[*prompt_ids[i], *trials[i].completion] for i in rows]
        kept = [trials[i].kept for i in rows]
        prefix = engine.restore([one for one in kept if one is not None]) if all(kept) else engine.prefill(before)
        branches = []
        for place, (i, ids) in enumerate(zip(rows, before, strict=True)):
            suffix = tuple(ids[-1:] if trials[i].closed else forced_prefix(trials[i].thought, self.fmt))
            branches.append(Branch(place, len(ids) - trials[i].closed, suffix))
        room = trainer.max_completion_length - self.budget - max(len(branch.suffix) for branch in branches) - 1
        stops = (*self.fmt.answer_stop_ids, *self.fmt.end_ids)
        answers = engine.answers(prefix, branches, 1, room, stops, sampling=sampling_of(trainer), purpose="sampled")
        for i, branch, answer in zip(rows, branches, answers, strict=True):
            trial, (ids,), (logprobs,) = trials[i], answer.ids, answer.logprobs
            given = 0 if trial.closed else len(branch.suffix)
            added = [] if ids[-1] in self.fmt.end_ids or not answer.stopped[0] else list(self.fmt.end_ids[:1])
            trial.chosen = [1] * len(trial.completion) + [0] * given + [1] * len(ids) + [0] * len(added)
            trial.completion = [*trial.completion, *(branch.suffix if given else ()), *ids, *added]
            trial.logprobs = [*(trial.logprobs or []), *([0.0] * given), *logprobs, *([0.0] * len(added))]

    def _mixed(
        self,
        engine: Engine,
        trainer: Any,
        prompt_ids: list[list[int]],
        rows: Sequence[Mapping[str, Any]],
        size: int,
    ) -> list[Trial]:
        """Groups of `size` rows, each on one prefix: the first half goes on, the second half answers now."""
        limit, step = trainer.max_completion_length, trainer.state.global_step
        sampling = sampling_of(trainer)
        firsts = range(0, len(prompt_ids), size)
        keys = [str(rows[i].get("key") or prompt_ids[i]) for i in firsts]
        sources: list[tuple[list[int], int] | None] = [self.pool.take(key, step) for key in keys]
        missing = [g for g, source in enumerate(sources) if source is None]
        if missing:
            fresh = self._continue(engine, [prompt_ids[g * size] for g in missing], [limit] * len(missing), 1, sampling)
            for g, ids in zip(missing, fresh, strict=True):
                sources[g] = (ids.ids[0], 0)
        prefixes, forks = [], []
        for source in sources:
            assert source is not None
            trial = read_trial(source[0], self.fmt, self.segment)
            fork = int(torch.randint(max(1, len(trial.ends)), ()))
            forks.append(fork)
            prefixes.append(trial.completion[: trial.start + (trial.ends[fork - 1] if fork else 0)])
        starts = [[*prompt_ids[i], *prefix] for i, prefix in zip(firsts, prefixes, strict=True)]
        half = size - size // 2
        going = self._continue(engine, starts, [limit - len(prefix) for prefix in prefixes], half, sampling)
        answers = self._answer_now(engine, starts, prefixes, size // 2, sampling)
        trials = []
        for g, prefix in enumerate(prefixes):
            source = sources[g]
            assert source is not None
            for more, logprobs in zip(going[g].ids, going[g].logprobs, strict=True):
                trial = read_trial([*prefix, *more], self.fmt, self.segment)
                trial.logprobs = [*([0.0] * len(prefix)), *logprobs]
                trial.chosen = [0] * len(prefix) + [1] * len(more)
                trial.fork, trial.age = forks[g], source[1]
                trials.append(trial)
            for suffix, answer, added, logprobs in answers[g]:
                trial = read_trial([*prefix, *suffix, *answer, *added], self.fmt, self.segment)
                trial.logprobs = [0.0] * (len(prefix) + len(suffix)) + logprobs + [0.0] * len(added)
                given = len(prefix) + len(suffix)
                trial.chosen = [0] * given + [int(self.train_forced)] * len(answer) + [0] * len(added)
                trial.fork, trial.age, trial.forced = forks[g], source[1], True
                trials.append(trial)
            self.pool.put(keys[g], trials[-size].completion, step)
        self.cost["sampled"] += engine.positions["sampled"]
        return trials

    def _continue(
        self,
        engine: Engine,
        starts: Sequence[Sequence[int]],
        limits: Sequence[int],
        n: int,
        sampling: Sampling,
        keep: bool = False,
    ) -> list[Answers]:
        """`n` completions of every start, each cut at its own limit."""
        prefix = engine.prefill(starts)
        branches = [Branch(i, len(start)) for i, start in enumerate(starts)]
        answers = engine.answers(
            prefix, branches, n, max(limits), self.fmt.end_ids, sampling=sampling, purpose="sampled", keep=keep
        )
        for answer, limit in zip(answers, limits, strict=True):
            answer.ids = [ids[:limit] for ids in answer.ids]
            answer.logprobs = [logprobs[:limit] for logprobs in answer.logprobs]
        return answers

    def _answer_now(
        self,
        engine: Engine,
        starts: Sequence[Sequence[int]],
        prefixes: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
    ) -> list[list[tuple[list[int], list[int], list[int], list[float]]]]:
        """For every start `n` times (forced close, answer, the end token where the answer stopped at its brace, the
        answer's log-probabilities).
        """
        branches = []
        for i, (start, prefix) in enumerate(zip(starts, prefixes, strict=True)):
            opening, _ = thought_span(prefix, self.fmt)
            branches.append(Branch(i, len(start), tuple(forced_prefix(prefix[opening:], self.fmt))))
        answers = engine.answers(
            engine.prefill(starts),
            branches,
            n,
            self.fmt.max_answer_tokens,
            self.fmt.answer_stop_ids,
            sampling=sampling,
            purpose="sampled",
        )
        end = list(self.fmt.end_ids[:1])
        return [
            [
                (list(branch.suffix), ids, [] if ids[-1] in self.fmt.end_ids else end, logprobs)
                for ids, logprobs in zip(answer.ids, answer.logprobs, strict=True)
            ]
            for branch, answer in zip(branches, answers, strict=True)
        ]
