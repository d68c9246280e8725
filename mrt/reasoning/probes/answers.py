"""What is asked of an engine at a forced close."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mrt.reasoning.engines.base import Answers, Branch, Engine
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.traces.prompts import ThinkFormat


@dataclass(frozen=True)
class AnswerRequest:
    """`samples` answers of at most `room` tokens each, drawn by `sampling`, their positions counted as `purpose`."""

    samples: int
    room: int
    sampling: Sampling
    purpose: str = "probed"


def forced_answers(
    engine: Engine, prefix: Any, branches: Sequence[Branch], fmt: ThinkFormat, request: AnswerRequest
) -> list[Answers]:
    """The answers behind every branch, whose suffix is a forced close."""
    stops = fmt.answer_stop_ids
    return engine.answers(prefix, branches, request.samples, request.room, stops, request.sampling, request.purpose)
