"""The paper's mixed group: a prefix cut after a random number of episodes, half of the group goes on thinking, half
answers at once.

The forced half supplies J(mu | prefix) inside the group's own normalisation (Qu et al. 2025, 2503.07572, section 6.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from mrt.reasoning.engines.base import Branch, Engine
from mrt.reasoning.probes.answers import AnswerRequest, forced_answers
from mrt.reasoning.traces.prompts import ThinkFormat, forced_prefix, thought_span
from mrt.reasoning.traces.sample_row import SampleRow
from mrt.reasoning.traces.trial import Segment, Trial, read_trial
from mrt.reasoning.training.samplers import Plain, SampleRequest, continue_rows


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


@dataclass(frozen=True)
class Fork:
    """What the rows of a group start from: the prompt, the completion up to the cut, the number of episodes in it."""

    key: str
    prompt: list[int]
    prefix: list[int]
    episodes: int
    age: int

    @property
    def start(self) -> list[int]:
        """The ids that every row of the group has in common."""
        return [*self.prompt, *self.prefix]

    def row(self) -> SampleRow:
        """A row that holds the prefix and nothing else."""
        row = SampleRow(self.prompt)
        row.give(self.prefix)
        return row


@dataclass(frozen=True)
class Mixed:
    """Groups on a shared prefix. In evaluation it samples plainly.

    With `train_forced` the answers of the forced rows are trained on; prefix and forced close never are.
    """

    fmt: ThinkFormat
    segment: Segment
    pool: PrefixPool
    train_forced: bool = False

    def sample(self, engine: Engine, request: SampleRequest) -> list[Trial]:
        if not request.training:
            return Plain(self.fmt, self.segment).sample(engine, request)
        forks = self._forks(engine, request)
        going = self._going_on(engine, forks, request)
        answering = self._answering(engine, forks, request)
        trials = []
        for fork, one, other in zip(forks, going, answering, strict=True):
            trials += [*one, *other]
            self.pool.put(fork.key, one[0].completion, request.step)
        return trials

    def _forks(self, engine: Engine, request: SampleRequest) -> list[Fork]:
        """A fork a group, from the pool or from a fresh trace, cut after a random number of its episodes."""
        firsts = range(0, len(request.prompts), request.group)
        prompts = [request.prompts[i] for i in firsts]
        keys = [str(request.rows[i].get("key") or request.prompts[i]) for i in firsts]
        sources = [self.pool.take(key, request.step) for key in keys]
        missing = [g for g, source in enumerate(sources) if source is None]
        if missing:
            alone = replace(request, group=1, keep=False)
            limits = [request.limit] * len(missing)
            fresh = continue_rows(engine, self.fmt, [prompts[g] for g in missing], limits, alone)
            for g, answer in zip(missing, fresh, strict=True):
                sources[g] = (answer.ids[0], 0)
        forks = []
        for key, prompt, source in zip(keys, prompts, sources, strict=True):
            assert source is not None
            ids, age = source
            trial = read_trial(ids, self.fmt, self.segment)
            episodes = int(torch.randint(max(1, len(trial.ends)), ()))
            prefix = trial.completion[: trial.start + (trial.ends[episodes - 1] if episodes else 0)]
            forks.append(Fork(key, prompt, prefix, episodes, age))
        return forks

    def _going_on(self, engine: Engine, forks: Sequence[Fork], request: SampleRequest) -> list[list[Trial]]:
        """The first half of every group: it goes on thinking behind the prefix."""
        limits = [request.limit - len(fork.prefix) for fork in forks]
        half = replace(request, group=request.group - request.group // 2, keep=False)
        groups = continue_rows(engine, self.fmt, [fork.start for fork in forks], limits, half)
        found = []
        for fork, group in zip(forks, groups, strict=True):
            trials = []
            for ids, logprobs in zip(group.ids, group.logprobs, strict=True):
                row = fork.row()
                row.draw(ids, logprobs)
                trials.append(self._trial(row, fork))
            found.append(trials)
        return found

    def _answering(self, engine: Engine, forks: Sequence[Fork], request: SampleRequest) -> list[list[Trial]]:
        """The second half of every group: the thought is closed at the fork and answered."""
        branches = []
        for place, fork in enumerate(forks):
            opening, _ = thought_span(fork.prefix, self.fmt)
            suffix = tuple(forced_prefix(fork.prefix[opening:], self.fmt))
            branches.append(Branch(place, len(fork.start), suffix))
        prefix = engine.prefill([fork.start for fork in forks])
        asked = AnswerRequest(request.group // 2, self.fmt.max_answer_tokens, request.sampling, "sampled")
        answers = forced_answers(engine, prefix, branches, self.fmt, asked)
        found = []
        for fork, branch, answer in zip(forks, branches, answers, strict=True):
            trials = []
            for ids, logprobs in zip(answer.ids, answer.logprobs, strict=True):
                row = fork.row()
                row.give(branch.suffix)
                row.draw(ids, logprobs, trained=self.train_forced)
                row.end_turn(self.fmt)
                trials.append(self._trial(row, fork))
                trials[-1].forced = True
            found.append(trials)
        return found

    def _trial(self, row: SampleRow, fork: Fork) -> Trial:
        trial = row.trial(self.fmt, self.segment)
        trial.fork, trial.age = fork.episodes, fork.age
        return trial
