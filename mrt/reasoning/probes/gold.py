"""The gold probe: J is the probability of a right answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mrt.errors import ConfigError
from mrt.reasoning.engines.base import Engine
from mrt.reasoning.probes.base import MAX_SOLUTIONS, Judge, Probed, Trace, branches_of, prefill_chunks
from mrt.reasoning.traces.prompts import ThinkFormat
from mrt.reasoning.traces.spelling import spellings


@dataclass(frozen=True)
class Gold:
    """The teacher-forced probability of the gold answers, summed: no answer is sampled, the standard error is 0.

    Where the row's `solutions` list every accepted answer (Countdown), this is the exact J of the forced answer at
    temperature 1, whatever temperature the policy samples with. With one `solution` out of many forms (1/2, 0.5) it is
    a lower bound that rises with J (the surrogate of GRPO-VPS, 2604.20659). With a `tolerance` unlikely beginnings of
    answers are pruned, which takes a fraction of the positions; J is then low by at most that much.

    Raises:
        ConfigError: for a row without solutions, or with more than 200 of them, a tolerance outside [0, 1), and a
            forced close behind which something else than an answer is due (forced_style=paper).
    """

    tolerance: float = 0.0
    prover: str = field(default="forced", init=False)

    def __call__(self, engine: Engine, fmt: ThinkFormat, traces: Sequence[Trace], judge: Judge) -> list[Probed]:
        if fmt.steps_first:
            raise ConfigError(
                "the 'gold' probe scores answers right behind the forced close, where forced_style=paper writes steps "
                "first. Cure: forced_style='short', or probe='sampled'"
            )
        results: list[Probed] = [Probed((), ())] * len(traces)
        known: dict[tuple[str, ...], list[list[int]]] = {}
        solutions = []
        for trace in traces:
            texts = self.solution_texts(trace.row)
            if texts not in known:
                known[texts] = self.solution_ids(texts, fmt)
            solutions.append(known[texts])
        for chunk, prefix in prefill_chunks(engine, traces):
            owners, branches = branches_of(traces, chunk, fmt)
            scores = engine.score(prefix, branches, [solutions[i] for i in owners], self.tolerance)
            values: dict[int, list[float]] = {i: [] for i in chunk}
            for owner, score in zip(owners, scores, strict=True):
                values[owner].append(min(1.0, float(score.exp().sum())))
            for i in chunk:
                results[i] = Probed(tuple(values[i]), (0.0,) * len(values[i]))
        return results

    @staticmethod
    def solution_texts(row: Mapping[str, Any]) -> tuple[str, ...]:
        """The gold answers of a row."""
        texts = row.get("solutions") or ([row["solution"]] if row.get("solution") else None)
        if not texts:
            raise ConfigError(
                "the 'gold' probe needs a column 'solutions' (or 'solution') with the gold answers; "
                f"this row has {sorted(row)}. Cure: probe='sampled'"
            )
        if len(texts) > MAX_SOLUTIONS:
            raise ConfigError(
                f"the 'gold' probe would score {len(texts)} solutions at every boundary of '{row.get('key', '?')}', "
                f"more than {MAX_SOLUTIONS}. Cure: probe='sampled'"
            )
        return tuple(texts)

    @staticmethod
    def solution_ids(texts: Sequence[str], fmt: ThinkFormat) -> list[list[int]]:
        """Ids of every gold answer with what closes it (the brace of the box, or the end of the turn), in every
        spelling that the vocabulary has for them.
        """
        return [ids for text in texts for ids in spellings(text, fmt)]
