"""V under going on: the share of whole continuations from a boundary that end right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mrt.reasoning.engines.base import Branch, Engine
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.probes.base import Judge, Probed, Trace, prefill_chunks
from mrt.reasoning.probes.forced import mean_and_error
from mrt.reasoning.traces.prompts import ThinkFormat
from mrt.reasoning.traces.sample_row import SampleRow
from mrt.reasoning.training.samplers import Budgeted, SampleRequest

SIMILAR = 16  # tokens: continuations whose rooms differ by less are drawn together


@dataclass(frozen=True)
class Continued:
    """The mean reward of `samples` continuations from each boundary, drawn as the policy draws: V of VinePPO
    (Kazemnejad et al. 2024, 2410.01679, who take 9) and of SPO (2505.23564). Unbiased; several traces at one boundary
    share their samples.

    A continuation has what is left of `budget` tokens, then an open thought is closed and answers, as the rows of a
    batch do (`Budgeted`); `limit` bounds the completion. With `budget` equal to `limit` nothing is forced.
    """

    samples: int
    sampling: Sampling
    budget: int
    limit: int
    prover: str = field(default="continue", init=False)

    def __call__(self, engine: Engine, fmt: ThinkFormat, traces: Sequence[Trace], judge: Judge) -> list[Probed]:
        rows: list[SampleRow] = []
        owners: list[tuple[int, int]] = []
        for chunk, prefix in prefill_chunks(engine, traces):
            for owner, row in self._drawn(engine, prefix, [(i, traces[i]) for i in chunk], fmt):
                owners.append(owner)
                rows.append(row)
        if not rows:
            return [Probed((), ())] * len(traces)
        if self.budget < self.limit:
            request = SampleRequest((), (), 1, self.limit, self.sampling, purpose="probed")
            Budgeted(fmt, lambda ids, _: [len(ids)], self.budget).finish(engine, rows, request)
        texts = [fmt.tokenizer.decode(row.ids, skip_special_tokens=True) for row in rows]
        rewards = judge([traces[i].row for i, _ in owners], texts, [row.ids for row in rows])
        found: dict[tuple[int, int], list[float]] = {owner: [] for owner in owners}
        for owner, reward in zip(owners, rewards, strict=True):
            if reward is not None and reward == reward:
                found[owner].append(reward)
        pairs = [[mean_and_error(found[i, cut]) for cut in trace.cuts] for i, trace in enumerate(traces)]
        return [Probed(tuple(v for v, _ in one), tuple(e for _, e in one)) for one in pairs]

    def _drawn(
        self, engine: Engine, prefix: Any, traces: Sequence[tuple[int, Trace]], fmt: ThinkFormat
    ) -> Iterator[tuple[tuple[int, int], SampleRow]]:
        """((trace, cut), continuation), those with similar room at one time."""
        places = [(row, i, trace, cut) for row, (i, trace) in enumerate(traces) for cut in trace.cuts]
        places.sort(key=lambda place: self._room(place[2], place[3]))
        while places:
            most = self._room(*places[-1][2:])
            part = [place for place in places if self._room(*place[2:]) > most - SIMILAR]
            places = places[: len(places) - len(part)]
            branches = [_behind(row, t, cut) for row, _, t, cut in part]
            answers = None
            if most > 0:
                answers = engine.answers(
                    prefix, branches, self.samples, most, fmt.end_ids, sampling=self.sampling, purpose="probed"
                )
            for place, (_, i, trace, cut) in enumerate(part):
                room = self._room(trace, cut)
                for n in range(self.samples):
                    row = SampleRow(trace.prompt)
                    row.give([*trace.opening, *trace.thought[:cut]])
                    if answers is not None and room > 0:
                        row.draw(answers[place].ids[n][:room], answers[place].logprobs[n][:room])
                    yield (i, cut), row

    def _room(self, trace: Trace, cut: int) -> int:
        return max(0, self.budget - len(trace.opening) - cut)


def _behind(row: int, trace: Trace, cut: int) -> Branch:
    """Going on behind a cut: its last token runs once more, for the logits behind it."""
    given = [*trace.prompt, *trace.opening, *trace.thought[:cut]]
    return Branch(row, len(given) - 1, (given[-1],))
