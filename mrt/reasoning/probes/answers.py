"""What is asked of an engine at a forced close."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mrt.reasoning.engines.base import Answers, Branch, Engine
from mrt.reasoning.engines.noise import Noise
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.traces.prompts import ThinkFormat, answer_end


@dataclass(frozen=True)
class AnswerRequest:
    """`samples` answers of at most `room` tokens each, drawn by `sampling`, their positions counted as `purpose`.

    `noise` is what each answer of each branch is drawn with, where answers are coupled; `states` asks for the hidden
    state at the end of each branch.
    """

    samples: int
    room: int
    sampling: Sampling
    purpose: str = "probed"
    noise: Sequence[Sequence[Noise]] | None = None
    states: bool = False


def forced_answers(
    engine: Engine, prefix: Any, branches: Sequence[Branch], fmt: ThinkFormat, request: AnswerRequest
) -> list[Answers]:
    """The answers behind every branch, whose suffix is a forced close; each ends with the brace that closes its box.

    An engine stops at tokens. Where a vocabulary merges braces with other text and answers hold braces of their own, it
    stops at every token with a closing brace, and those answers go on whose box is still open.
    """
    if not fmt.brace_ids:
        return _ask(engine, prefix, branches, fmt.answer_stop_ids, request)
    stops = (*fmt.brace_ids, *fmt.end_ids)
    found = _ask(engine, prefix, branches, stops, request)
    while going := [
        (b, n)
        for b, answer in enumerate(found)
        for n, ids in enumerate(answer.ids)
        if answer.stopped[n] and len(ids) < request.room and answer_end(ids, fmt) is None
    ]:
        again = [replace(branches[b], suffix=(*branches[b].suffix, *found[b].ids[n])) for b, n in going]
        room = request.room - min(len(found[b].ids[n]) for b, n in going)
        noise = request.noise and [(request.noise[b][n].behind(len(found[b].ids[n])),) for b, n in going]
        asked = replace(request, samples=1, room=room, noise=noise, states=False)
        more = _ask(engine, prefix, again, stops, asked)
        for (b, n), part in zip(going, more, strict=True):
            left = request.room - len(found[b].ids[n])
            found[b].ids[n] = [*found[b].ids[n], *part.ids[0][:left]]
            found[b].logprobs[n] = [*found[b].logprobs[n], *part.logprobs[0][:left]]
            found[b].stopped[n] = part.stopped[0] and len(part.ids[0]) <= left
    for answer in found:
        answer.stopped = [answer_end(ids, fmt) is not None for ids in answer.ids]
    return found


def _ask(
    engine: Engine, prefix: Any, branches: Sequence[Branch], stops: Sequence[int], request: AnswerRequest
) -> list[Answers]:
    how: dict[str, Any] = {"sampling": request.sampling, "purpose": request.purpose}
    if request.noise is not None:
        how["noise"] = request.noise
    if request.states:
        how["states"] = True
    return engine.answers(prefix, branches, request.samples, request.room, stops, **how)
