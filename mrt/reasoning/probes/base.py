"""What a probe is: J at the boundaries of traces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mrt.reasoning.engines.base import Branch, Engine
from mrt.reasoning.traces.prompts import ThinkFormat, forced_prefix

Judge = Callable[[Sequence[Mapping[str, Any]], Sequence[str], Sequence[Sequence[int]]], Sequence[float | None]]
"""(rows, completion texts, completion ids) -> rewards in [0, 1], None where an answer cannot be scored."""


MAX_SOLUTIONS = 200


@dataclass(frozen=True)
class Trace:
    """A thought to be stopped at `cuts` (numbers of its tokens, increasing; 0 answers at once).

    `prompt` are the ids before the completion, `opening` those of the completion before the thought (the open tag,
    where the prompt did not write it). `complete` says that the thought ended by itself: its last cut is closed without
    a word about time. `kept` are the keys and values from acting, which save the pass over the trace. `shared` says
    for every cut how many traces ask for it: a probe that samples independently draws that many times as many answers
    there (not given: one each). `seed` is what coupled answers are drawn with, the same for all traces of a problem.
    """

    prompt: tuple[int, ...]
    thought: tuple[int, ...]
    cuts: tuple[int, ...]
    row: Mapping[str, Any]
    opening: tuple[int, ...] = ()
    complete: bool = False
    kept: Any = None
    shared: tuple[int, ...] = ()
    seed: int = 0

    def suffix(self, cut: int, fmt: ThinkFormat) -> tuple[int, ...]:
        """The forced close that fits the thought at `cut`."""
        done = self.complete and cut == len(self.thought)
        return tuple(forced_prefix(self.thought[:cut], fmt, complete=done))


@dataclass(frozen=True)
class Drawn:
    """A forced answer to be trained on: the completion that it ends, where it starts in it, and its reward minus the
    mean reward of the other answers at its boundary.
    """

    completion: tuple[int, ...]
    start: int
    advantage: float


@dataclass(frozen=True)
class Probed:
    """J and its standard error at every cut of one trace, NaN where nothing could be scored; the sampled answers, if
    any, as texts and as what can be trained on.
    """

    values: tuple[float, ...]
    errors: tuple[float, ...]
    answers: tuple[tuple[str, ...], ...] = ()
    drawn: tuple[tuple[Drawn, ...], ...] = ()


class Probe(Protocol):
    """`prover` is what a credit asks for; `privileged` probes read the row's solutions."""

    @property
    def prover(self) -> str: ...

    def __call__(self, engine: Engine, fmt: ThinkFormat, traces: Sequence[Trace], judge: Judge) -> list[Probed]: ...


def prefill_chunks(engine: Engine, traces: Sequence[Trace]) -> Iterator[tuple[list[int], Any]]:
    """Chunks of trace indices with the keys and values of each trace up to its last cut. Traces without cuts are left
    out.
    """
    wanted = [i for i, trace in enumerate(traces) if trace.cuts]
    sequences = {i: (*traces[i].prompt, *traces[i].opening, *traces[i].thought[: traces[i].cuts[-1]]) for i in wanted}
    for positions in engine.chunks([len(sequences[i]) for i in wanted]):
        chunk = [wanted[p] for p in positions]
        kept = [traces[i].kept for i in chunk]
        if all(kept):
            yield chunk, engine.restore([row for row in kept if row is not None])
        else:
            yield chunk, engine.prefill([sequences[i] for i in chunk], purpose="probed")


@dataclass
class Chunks:
    """`prefill_chunks` of `traces`, to be gone through more than once: one chunk stays, several are computed anew."""

    engine: Engine
    traces: Sequence[Trace]
    held: tuple[list[int], Any] | None = None

    def __iter__(self) -> Iterator[tuple[list[int], Any]]:
        if self.held is not None:
            yield self.held
            return
        count = 0
        for one in prefill_chunks(self.engine, self.traces):
            count, self.held = count + 1, None if count else one
            yield one


def branches_of(traces: Sequence[Trace], chunk: Sequence[int], fmt: ThinkFormat) -> tuple[list[int], list[Branch]]:
    """One branch a cut, with the trace that owns it."""
    owners, branches = [], []
    for row, i in enumerate(chunk):
        start = len(traces[i].prompt) + len(traces[i].opening)
        for cut in traces[i].cuts:
            owners.append(i)
            branches.append(Branch(row, start + cut, traces[i].suffix(cut, fmt)))
    return owners, branches
