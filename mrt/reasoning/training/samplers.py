"""How the rows of a batch are sampled: three samplers with one interface.

Plain     whole completions.
Budgeted  as plain, but a thought that used up its budget is closed and made to answer.
Mixed     groups on a shared prefix, half of each answers at once (mixed.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Protocol

from mrt.reasoning.engines.base import Answers, Branch, Engine
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.probes.answers import AnswerRequest, forced_answers
from mrt.reasoning.traces.prompts import ThinkFormat, forced_prefix
from mrt.reasoning.traces.sample_row import SampleRow
from mrt.reasoning.traces.trial import Segment, Trial


@dataclass(frozen=True)
class SampleRequest:
    """What a trainer asks for: a completion of at most `limit` tokens behind every prompt.

    `group` rows that follow each other have the same prompt. `rows` are those of the dataset. `keep` asks for the keys
    and values of acting, which save the probes a pass. `step` is the optimiser step, `purpose` what positions count as.
    """

    prompts: Sequence[list[int]]
    rows: Sequence[Mapping[str, Any]]
    group: int
    limit: int
    sampling: Sampling
    keep: bool = False
    training: bool = True
    step: int = 0
    purpose: str = "sampled"


class Sampler(Protocol):
    """`sample` gives one trial a prompt, in their order."""

    def sample(self, engine: Engine, request: SampleRequest) -> list[Trial]: ...


@dataclass(frozen=True)
class Plain:
    """Whole completions from the policy."""

    fmt: ThinkFormat
    segment: Segment

    def sample(self, engine: Engine, request: SampleRequest) -> list[Trial]:
        return [row.trial(self.fmt, self.segment) for row in draw_rows(engine, self.fmt, request)]


@dataclass(frozen=True)
class Budgeted:
    """Completions whose first `budget` tokens are free: behind them an open thought is closed and answered, an answer
    goes on.

    The close is given, not chosen; the answer is the policy's own. The trial's stop stays BUDGET.
    """

    fmt: ThinkFormat
    segment: Segment
    budget: int

    def sample(self, engine: Engine, request: SampleRequest) -> list[Trial]:
        rows = draw_rows(engine, self.fmt, replace(request, limit=self.budget, keep=True))
        return self.finish(engine, rows, request)

    def finish(self, engine: Engine, rows: Sequence[SampleRow], request: SampleRequest) -> list[Trial]:
        """The trials of rows that have used up the budget, or ended before: whoever has no answer yet answers."""
        trials = [row.trial(self.fmt, self.segment) for row in rows]
        cut = [i for i, row in enumerate(rows) if row.ids[-1] not in self.fmt.end_ids]
        # An answer that is under way has braces of its own: it ends with its turn, a forced one with its brace.
        parts = [cut]
        if self.fmt.brace_ids:
            parts = [[i for i in cut if trials[i].closed == closed] for closed in (False, True)]
        for part in parts:
            if part:
                self._answer(engine, [rows[i] for i in part], [trials[i] for i in part], request)
        return [row.written_to(trial) for row, trial in zip(rows, trials, strict=True)]

    def _answer(
        self, engine: Engine, rows: Sequence[SampleRow], trials: Sequence[Trial], request: SampleRequest
    ) -> None:
        """Closes the open thoughts and lets every row write its answer."""
        kept = [row.kept for row in rows]
        prefix = (
            engine.restore([one for one in kept if one is not None])
            if all(kept)
            else engine.prefill([row.context for row in rows], request.purpose)
        )
        branches = []
        for place, (row, trial) in enumerate(zip(rows, trials, strict=True)):
            # The last token of an answer that goes on runs once more, for the logits behind it.
            suffix = tuple(row.ids[-1:] if trial.closed else forced_prefix(trial.thought, self.fmt))
            branches.append(Branch(place, len(row.context) - trial.closed, suffix))
        room = request.limit - self.budget - max(len(branch.suffix) for branch in branches) - 1
        asked = AnswerRequest(1, room, request.sampling, request.purpose)
        if self.fmt.brace_ids and trials[0].closed:
            stops = self.fmt.end_ids
            answers = engine.answers(prefix, branches, 1, room, stops, sampling=asked.sampling, purpose=asked.purpose)
        else:
            answers = forced_answers(engine, prefix, branches, self.fmt, asked)
        for row, trial, branch, answer in zip(rows, trials, branches, answers, strict=True):
            row.give(() if trial.closed else branch.suffix)
            row.draw(answer.ids[0], answer.logprobs[0])
            if answer.stopped[0]:
                row.end_turn(self.fmt)


def draw_rows(engine: Engine, fmt: ThinkFormat, request: SampleRequest) -> list[SampleRow]:
    """A completion of every prompt. The prompt of a group runs through the model once."""
    starts = request.prompts[:: request.group]
    widest = max(map(len, request.prompts)) + request.limit
    keep = request.keep and len(request.prompts) * widest <= engine.max_positions
    limits = [request.limit] * len(starts)
    groups = continue_rows(engine, fmt, starts, limits, replace(request, keep=keep))
    rows = []
    for start, group in zip(starts, groups, strict=True):
        for ids, logprobs, kept in zip_longest(group.ids, group.logprobs, group.kept):
            row = SampleRow(start, kept=kept)
            row.draw(ids, logprobs)
            rows.append(row)
    return rows


def continue_rows(
    engine: Engine,
    fmt: ThinkFormat,
    starts: Sequence[Sequence[int]],
    limits: Sequence[int],
    request: SampleRequest,
) -> list[Answers]:
    """`request.group` continuations of every start, each cut at its own limit."""
    prefix = engine.prefill(starts, request.purpose)
    branches = [Branch(i, len(start)) for i, start in enumerate(starts)]
    own: dict[str, Any] = {"sampling": request.sampling, "purpose": request.purpose, "keep": request.keep}
    answers = engine.answers(prefix, branches, request.group, max(limits), fmt.end_ids, **own)
    for answer, limit in zip(answers, limits, strict=True):
        answer.ids = [ids[:limit] for ids in answer.ids]
        answer.logprobs = [logprobs[:limit] for logprobs in answer.logprobs]
    return answers
