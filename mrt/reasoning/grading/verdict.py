"""Verdicts: what an answer is found to be, and where in a text it stands."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What a grader can say about an answer."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"  # no answer that can be read
    TRUNCATED = "truncated"  # the thought was never closed
    TIMEOUT = "timeout"  # the comparison did not end in time
    ERROR = "error"  # the verifier failed, or the gold answer is unusable


@dataclass(frozen=True)
class Grade:
    """A verdict, the answer it was given to, and why where that is not plain."""

    verdict: Verdict
    extracted: str | None = None
    detail: str = ""

    @property
    def reward(self) -> float | None:
        """1.0 or 0.0; None for timeout and error, which say nothing about the answer."""
        if self.verdict in (Verdict.TIMEOUT, Verdict.ERROR):
            return None
        return 1.0 if self.verdict is Verdict.CORRECT else 0.0


def split_thought(
    text: str, close: str = "</think>", open: str = "<think>", opened: bool | None = None
) -> tuple[str, str | None]:
    """(thought, answer part). The answer part is None when the thought was never closed.

    The cut is at the last `close`. A text that opens again after it counts as not closed; one without any tag is all
    answer, unless `opened` says that its prompt ended inside the thought.
    """
    thought, tag, answer = text.rpartition(close)
    if tag and open not in answer:
        return thought.lstrip().removeprefix(open), answer
    if not tag and open not in text and not opened:
        return "", text
    return text.lstrip().removeprefix(open), None


_BOX = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


def find_boxes(text: str) -> list[str]:
    r"""Contents of the balanced \boxed{...} in order, outermost only; a box inside a box is read as plain braces.

    One pass with a stack. Escaped braces (\{, \}) do not count, as in LaTeX.
    """
    stack: list[int] = []  # where the content of an open box starts; -1 for a brace that is no box
    found: list[tuple[int, int]] = []
    for match in _BOX.finditer(text):
        mark = match.group()
        if mark == "{":
            stack.append(-1)
        elif mark == "}":
            start = stack.pop() if stack else -1
            if start >= 0:
                while found and found[-1][0] > start:
                    found.pop()
                found.append((start, match.start()))
        elif len(mark) > 2:
            stack.append(match.end())
    return [_unnest(text[start:end].strip()) for start, end in found]


def _unnest(content: str) -> str:
    if "\\boxed" not in content:
        return content
    content = content.replace("\\boxed", "").strip()
    whole = content.startswith("{") and content.endswith("}") and content.count("{") == 1
    return content[1:-1].strip() if whole else content


def extract_boxed(text: str) -> str | None:
    r"""Content of the last balanced \boxed{...} after the last </think>; None where there is none. Linear time."""
    boxes = find_boxes(text.rpartition("</think>")[2])
    return boxes[-1] if boxes else None


def verdict_shares(grades: Iterable[Grade]) -> dict[str, float]:
    """{"verifier/correct": share, ...}, every verdict named; {} for no grades."""
    verdicts = [grade.verdict for grade in grades]
    return {f"verifier/{v}": verdicts.count(v) / len(verdicts) for v in Verdict} if verdicts else {}
