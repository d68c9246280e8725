"""What a model writes of its own: a thought up to the full budget, and behind one that ended by itself its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from mrt.reasoning.engines.base import Branch, Engine
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.evaluation.config import EvalConfig
from mrt.reasoning.traces.prompts import ThinkFormat
from mrt.reasoning.traces.sample_row import SampleRow
from mrt.reasoning.traces.trial import Segment, Trial, read_trial

OWN_ANSWER_TOKENS = 2048  # of an answer behind a thought that ended by itself: often an explanation with steps


@dataclass(frozen=True)
class Thinker:
    """`thinker(prompts)` -> `config.n` trials of every prompt. `context` is the longest sequence of the model."""

    engine: Engine
    fmt: ThinkFormat
    segment: Segment
    config: EvalConfig
    context: int | None

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn."""
        return Sampling(self.config.temperature, self.config.top_p, self.config.top_k)

    def __call__(self, prompts: Sequence[Sequence[int]]) -> list[Trial]:
        """`n` completions of every prompt; a thought still open at the full budget is cut there."""
        full = self.config.full
        room = full + len(self.fmt.close_ids) + self.fmt.max_answer_tokens
        branches = [Branch(i, len(prompt)) for i, prompt in enumerate(prompts)]
        keep = len(prompts) * self.config.n * (max(map(len, prompts)) + room) <= self.engine.max_positions
        sampled = self.engine.answers(
            self.engine.prefill(prompts),
            branches,
            self.config.n,
            room,
            self.fmt.end_ids,
            sampling=self.sampling,
            purpose="sampled",
            keep=keep,
        )
        trials = []
        for prompt, group in zip(prompts, sampled, strict=True):
            rows = []
            for ids, logprobs, kept in zip_longest(group.ids, group.logprobs, group.kept):
                row = SampleRow(prompt, kept=kept)
                row.draw(ids, logprobs)
                rows.append(row)
            self._finish_answers(rows)
            for row in rows:
                trial = row.trial(self.fmt, self.segment)
                if len(trial.thought) > full:
                    trial = read_trial(row.ids[: trial.start + full], self.fmt, self.segment)
                    trial.kept = row.kept
                trials.append(trial)
        return trials

    def _finish_answers(self, rows: Sequence[SampleRow]) -> None:
        """Answers behind a closed thought that were cut go on, up to the room that answers of their own have."""
        open_rows, left = [], 0
        for row in rows:
            thought, answer = self.fmt.split(row.ids)
            if answer is None or row.ids[-1] in self.fmt.end_ids or len(thought) > self.config.full:
                continue
            missing = self._own_room(row) - len(answer)
            if missing > 0:
                open_rows.append(row)
                left = max(left, missing)
        if not open_rows:
            return
        kept = [row.kept for row in open_rows]
        # The last token runs once more, for the logits behind it.
        branches = [Branch(i, len(row.context) - 1, tuple(row.ids[-1:])) for i, row in enumerate(open_rows)]
        prefix = (
            self.engine.restore(kept)
            if all(one is not None for one in kept)
            else self.engine.prefill([row.context for row in open_rows])
        )
        more = self.engine.answers(
            prefix, branches, 1, left, self.fmt.end_ids, sampling=self.sampling, purpose="sampled"
        )
        for row, found in zip(open_rows, more, strict=True):
            room = self._own_room(row) - len(self.fmt.split(row.ids)[1] or ())
            row.draw(found.ids[0][:room], found.logprobs[0][:room])

    def _own_room(self, row: SampleRow) -> int:
        """Tokens that the answer behind this row's own close may have, within the model's context."""
        config = self.config
        room = config.own_answer_tokens or config.answer_tokens or OWN_ANSWER_TOKENS
        if not self.context:
            return room
        return min(room, self.context - len(row.prompt) - len(self.fmt.split(row.ids)[0]) - len(self.fmt.close_ids))
