"""The log-likelihood of the reference answer: for data with one reference and no list of all right answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mrt.errors import ConfigError
from mrt.reasoning.engines.base import Branch, Engine
from mrt.reasoning.probes.base import Drawn, Judge, Probed, Trace, branches_of, prefill_chunks
from mrt.reasoning.traces.prompts import ThinkFormat
from mrt.reasoning.traces.spelling import spellings

LOWEST = -50.0  # nats: no answer is less likely than this
FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}|(-?)(\d+)/(\d+)")


@dataclass(frozen=True)
class Reference:
    """log p(reference answer | forced close), summed over its canonical spellings: the reward that holds up everywhere
    in 2602.03979, measured at every boundary. Nothing is sampled; the standard error is 0.

    It is no probability and no estimate of J: J is larger by the answers that are written otherwise. A factor that all
    boundaries of a problem share cancels in progress. The unit is nats and differs between problems: use it with
    `progress_bonus_scale=group`. Below -50 it stays -50.

    Raises:
        ConfigError: for a row without a solution, and a forced close behind which steps are due.
    """

    prover: str = field(default="forced", init=False)

    def __call__(self, engine: Engine, fmt: ThinkFormat, traces: Sequence[Trace], judge: Judge) -> list[Probed]:
        if fmt.steps_first:
            raise ConfigError(
                "the 'reference' probe scores answers right behind the forced close: forced_style='short'"
            )
        results: list[Probed] = [Probed((), ())] * len(traces)
        known: dict[str, list[list[int]]] = {}
        for trace in traces:
            text = reference_of(trace.row)
            if text not in known:
                found = {tuple(ids): None for one in canonical(text) for ids in spellings(one, fmt)}
                known[text] = [list(ids) for ids in found]
        for chunk, prefix in prefill_chunks(engine, traces):
            owners, branches = branches_of(traces, chunk, fmt)
            scores = engine.score(prefix, branches, [known[reference_of(traces[i].row)] for i in owners])
            values: dict[int, list[float]] = {i: [] for i in chunk}
            drawn: dict[int, list[tuple[Drawn, ...]]] = {i: [] for i in chunk}
            for owner, branch, score in zip(owners, branches, scores, strict=True):
                values[owner].append(max(LOWEST, float(torch.logsumexp(score, 0))))
                drawn[owner].append((_taught(traces[owner], branch, known[reference_of(traces[owner].row)][0]),))
            for i in chunk:
                results[i] = Probed(tuple(values[i]), (0.0,) * len(values[i]), (), tuple(drawn[i]))
        return results


def _taught(trace: Trace, branch: Branch, answer: Sequence[int]) -> Drawn:
    """The reference answer behind the forced close, to be learned with weight 1."""
    cut = branch.cut - len(trace.prompt) - len(trace.opening)
    before = (*trace.opening, *trace.thought[:cut], *branch.suffix)
    return Drawn((*before, *answer), len(before), 1.0)


def reference_of(row: Mapping[str, Any]) -> str:
    """The reference answer of a row. Raises ConfigError where it has none."""
    text = row.get("solution") or (row.get("solutions") or [""])[0]
    if not text:
        raise ConfigError(
            f"the 'reference' probe needs a column 'solution'; this row has {sorted(row)}. Cure: probe='coupled'"
        )
    return str(text).strip()


def canonical(answer: str) -> list[str]:
    """A few ways to write the same answer: fractions in LaTeX or with a slash, numbers with and without commas, with a
    point or without; the answer itself first.
    """
    found = [answer]
    if match := FRACTION.fullmatch(answer):
        sign, top, bottom = (match[1], match[2], match[3]) if match[2] else (match[4], match[5], match[6])
        found += [f"{sign}{top}/{bottom}", f"{sign}\\frac{{{top}}}{{{bottom}}}"]
    elif re.fullmatch(r"-?\d[\d,]*(\.0*)?", answer):
        whole = int(answer.replace(",", "").partition(".")[0])
        found += [str(whole), f"{whole:,}", f"{whole}.0"]
    elif re.fullmatch(r"-?\d*\.\d+", answer):
        found += [answer.rstrip("0").rstrip(".") or "0"]
    return list(dict.fromkeys(found))


def reference_likelihood(trial: Sequence[Any] = (), **_: Any) -> list[float | None]:
    """A reward function of TRL: what the `reference` probe measured at a trace's last boundary (2602.03979); None for a
    trace that was not probed. Needs `rollout=probed, probe=reference`.
    """
    found: list[float | None] = []
    for one in trial:
        measured = [value for value in one.stop_values if value == value]
        found.append(measured[-1] if measured else None)
    return found
