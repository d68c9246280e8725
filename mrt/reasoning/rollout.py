"""Rollouts: how the trials of a batch are sampled, segmented into episodes and probed. TRL calls one as its
`rollout_func`.

probed  whole traces from the policy, probed at their boundaries (MRT with per-episode progress).
mixed   the paper's group (Qu et al. 2025, 2503.07572, section 6.2): a prefix cut after a random number of episodes;
half of the group
        goes on thinking, half is forced to answer. The forced half supplies J(mu | prefix) inside the group's own
        normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.engines.transformers import Branch, TransformersEngine
from mrt.reasoning.probes import Judge, Probe, Schedule, Trace
from mrt.reasoning.prompts import ThinkFormat, forced_prefix, thought_span

Segment = Callable[[Sequence[int], Any], list[int]]


@dataclass
class Trial:
    """One sampled trial on token level: completion ids, their episodes, and what was measured at the boundaries.

    `start` is where the thought begins in the completion, `ends` the exclusive ends of its episodes counted from there,
    `given` the number of leading completion tokens that the policy did not choose in this rollout. `stop_values` are
    J_0..J_K, NaN where not measured.
    """

    completion: list[int]
    start: int = 0
    ends: list[int] = field(default_factory=list)
    closed: bool = False
    chosen: list[int] | None = None  # 1 for a token chosen now by the policy; None: all of them
    fork: int = -1
    age: int = 0
    forced: bool = False
    logprobs: list[float] | None = None
    stop_values: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    @property
    def thought(self) -> list[int]:
        """Ids of the thought, without its tags."""
        return self.completion[self.start : self.start + (self.ends[-1] if self.ends else 0)]


def read_trial(completion: Sequence[int], fmt: ThinkFormat, segment: Segment) -> Trial:
    """The thought of a completion and its episodes; a thought that was never closed runs to the end (without an end
    token).
    """
    ids = list(completion)
    start, close = thought_span(ids, fmt)
    stop = close if close is not None else len(ids) - (1 if ids and ids[-1] in fmt.end_ids else 0)
    thought = ids[start:stop]
    return Trial(ids, start, segment(thought, fmt.tokenizer) if thought else [], close is not None)


def probe_trials(
    engine: TransformersEngine,
    fmt: ThinkFormat,
    probe: Probe,
    schedule: Schedule,
    judge: Judge,
    prompts: Sequence[Sequence[int]],
    trials: Sequence[Trial],
    rows: Sequence[Mapping[str, Any]],
    generator: torch.Generator,
) -> None:
    """Measures J at the scheduled boundaries and writes it into the trials. Forced rows are not probed: they are
    answers themselves.
    """
    chosen = schedule.choose([len(trial.ends) for trial in trials], generator)
    traces, owners = [], []
    shared: dict[tuple[int, ...], list[tuple[Trial, int]]] = {}  # equal prefixes (J_0 of a group) are measured once
    for i, trial in enumerate(trials):
        trial.stop_values = [math.nan] * (len(trial.ends) + 1)
        trial.errors = [math.nan] * (len(trial.ends) + 1)
        if trial.forced:
            continue
        fresh = []
        for j in (j for j in chosen[i] if j >= max(trial.fork, 0)):
            cut = trial.ends[j - 1] if j else 0
            last = j == len(trial.ends)  # a thought that ended by itself is closed in its own way
            place = (*prompts[i], *trial.completion[: trial.start + cut], -1 - int(last and trial.closed and cut > 0))
            if place not in shared:
                fresh.append((cut, place))
            shared.setdefault(place, []).append((trial, j))
        if fresh:
            opening, cuts = tuple(trial.completion[: trial.start]), tuple(cut for cut, _ in fresh)
            traces.append(Trace(tuple(prompts[i]), tuple(trial.thought), cuts, rows[i], opening, trial.closed))
            owners.append([place for _, place in fresh])
    for places, result in zip(owners, probe(engine, fmt, traces, judge), strict=True):
        for place, value, error in zip(places, result.values, result.errors, strict=True):
            for trial, j in shared[place]:
                trial.stop_values[j], trial.errors[j] = value, error


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
    pool: PrefixPool = field(default_factory=PrefixPool)
    cost: dict[str, int] = field(default_factory=lambda: {"sampled": 0, "probed": 0})

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        rows = trainer.rollout_rows
        prompt_ids, images, multimodal = trainer._tokenize_prompts(prompts)
        if images is not None:
            raise NotImplementedError("probes read token ids only: prompts with images cannot be probed")
        size = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
        if self.kind == "mixed" and trainer.model.training:
            with _engine(trainer) as engine:
                trials, logprobs = self._mixed(engine, trainer, prompt_ids, rows, size), None
        else:
            completions, logprobs = trainer._generate_single_turn(prompt_ids, images, multimodal, size)
            trials = [read_trial(ids, self.fmt, self.segment) for ids in completions]
            self.cost["sampled"] += sum(map(len, prompt_ids)) + sum(map(len, completions))
        if self.probe is not None:
            # The choice of boundaries follows the global random state, which checkpoints keep.
            generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
            with _engine(trainer) as engine:
                probe_trials(
                    engine, self.fmt, self.probe, self.schedule, self.judge, prompt_ids, trials, rows, generator
                )
                self.cost["probed"] += engine.positions["probed"]
        output = {
            "prompt_ids": prompt_ids,
            "completion_ids": [trial.completion for trial in trials],
            "logprobs": logprobs,
            "trial": trials,
        }
        if any(trial.chosen is not None for trial in trials):
            output["env_mask"] = [trial.chosen or [1] * len(trial.completion) for trial in trials]
        return output

    def _mixed(
        self,
        engine: TransformersEngine,
        trainer: Any,
        prompt_ids: list[list[int]],
        rows: Sequence[Mapping[str, Any]],
        size: int,
    ) -> list[Trial]:
        """Groups of `size` rows, each on one prefix: the first half goes on, the second half answers now."""
        limit, step = trainer.max_completion_length, trainer.state.global_step
        sampling = Sampling(trainer.args.temperature, trainer.args.top_p, trainer.args.top_k or 0)
        firsts = range(0, len(prompt_ids), size)
        keys = [str(rows[i].get("key") or prompt_ids[i]) for i in firsts]
        sources: list[tuple[list[int], int] | None] = [self.pool.take(key, step) for key in keys]
        missing = [g for g, source in enumerate(sources) if source is None]
        if missing:
            fresh = self._continue(engine, [prompt_ids[g * size] for g in missing], [limit] * len(missing), 1, sampling)
            for g, ids in zip(missing, fresh, strict=True):
                sources[g] = (ids[0], 0)
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
            for more in going[g]:
                trial = read_trial([*prefix, *more], self.fmt, self.segment)
                trial.chosen = [0] * len(prefix) + [1] * len(more)
                trial.fork, trial.age = forks[g], source[1]
                trials.append(trial)
            for suffix, answer, added in answers[g]:
                trial = read_trial([*prefix, *suffix, *answer, *added], self.fmt, self.segment)
                given = len(prefix) + len(suffix)
                trial.chosen = [0] * given + [int(self.train_forced)] * len(answer) + [0] * len(added)
                trial.fork, trial.age, trial.forced = forks[g], source[1], True
                trials.append(trial)
            self.pool.put(keys[g], trials[-size].completion, step)
        self.cost["sampled"] += engine.positions["sampled"]
        return trials

    def _continue(
        self,
        engine: TransformersEngine,
        starts: Sequence[Sequence[int]],
        limits: Sequence[int],
        n: int,
        sampling: Sampling,
    ) -> list[list[list[int]]]:
        """`n` completions of every start, each cut at its own limit."""
        prefix = engine.prefill(starts)
        branches = [Branch(i, len(start)) for i, start in enumerate(starts)]
        answers = engine.answers(prefix, branches, n, max(limits), self.fmt.end_ids, sampling, purpose="sampled")
        return [[ids[:limit] for ids in answer.ids] for answer, limit in zip(answers, limits, strict=True)]

    def _answer_now(
        self,
        engine: TransformersEngine,
        starts: Sequence[Sequence[int]],
        prefixes: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
    ) -> list[list[tuple[list[int], list[int], list[int]]]]:
        """For every start `n` times (forced close, answer, the end token where the answer stopped at its brace)."""
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
            sampling,
            purpose="sampled",
        )
        end = list(self.fmt.end_ids[:1])
        return [
            [(list(branch.suffix), ids, [] if ids[-1] in self.fmt.end_ids else end) for ids in answer.ids]
            for branch, answer in zip(branches, answers, strict=True)
        ]


@contextmanager
def _engine(trainer: Any) -> Iterator[TransformersEngine]:
    """An engine on the trainer's current weights, gathered where they are sharded."""
    from trl.models import unwrap_model_for_generation

    with (
        unwrap_model_for_generation(
            trainer.model_wrapped, trainer.accelerator, gather_deepspeed3_params=trainer.args.ds3_gather_for_generation
        ) as model,
        trainer._dist.summon_full_params(trainer.model_wrapped, recurse=False),
    ):
        yield TransformersEngine(model, trainer._tokenizer.pad_token_id)
