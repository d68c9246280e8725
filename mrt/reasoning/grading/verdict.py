"""Verdicts: what an answer is found to be, and where in a text it stands."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from mrt.reasoning.traces.tags import tags_in


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
    """A verdict, the answer it was given to, and why where that is not plain; `score` in [0, 1] where a verifier gives
    a part of the reward to an answer that is not right."""

    verdict: Verdict
    extracted: str | None = None
    detail: str = ""
    score: float | None = None

    @property
    def reward(self) -> float | None:
        """1.0 or 0.0, or the score between; None for timeout and error, which say nothing about the answer."""
        if self.verdict in (Verdict.TIMEOUT, Verdict.ERROR):
            return None
        if self.score is not None:
            return self.score
        return 1.0 if self.verdict is Verdict.CORRECT else 0.0


def split_thought(
    text: str, close: str | None = None, open: str | None = None, opened: bool | None = None
) -> tuple[str, str | None]:
    """(thought, answer part). The answer part is None when the thought was never closed.

    The first `close` ends the thought, for the grader as for the episodes (`ThinkFormat.split`); further tags in the
    answer are blanks. A text without any tag is all answer, unless `opened` says that its prompt ended inside the
    thought. The tags are <think> and </think>, or in a text without these those of any family that stand in it.
    """
    if close is None or open is None:
        open, close = tags_in(text)
    thought, tag, answer = text.partition(close)
    if tag:
        return thought.lstrip().removeprefix(open), answer.replace(close, " ").replace(open, " ")
    if open not in text and not opened:
        return "", text
    return text.lstrip().removeprefix(open), None


_BOX = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)


def find_boxes(text: str) -> list[str]:
    r"""Contents of the balanced \boxed{...} in order, outermost only; a box inside a box is read as plain braces.

    One pass with a stack. Escaped braces (\{, \}) do not count, as in LaTeX.
    """
    return [_unnest(text[start:end].strip()) for start, end in _box_spans(text)]


def _box_spans(text: str) -> list[tuple[int, int]]:
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
    return found


_SENTENCE_END = re.compile(r"[.!?](?=[\s*]|\\[\])]|\$|$)|\n\s*\n|\n\s*(?:[-*#]|\d+[.)])\s")
# What takes back the box before it; "and", "or" and a comma make a list of two.
_CORRECTION = re.compile(
    r"\b(?:but|wrong|incorrect|correct(?:ed|ing|ion)?|actually|instead|rather|mistake|wait|sorry|no|not|should be)\b",
    re.I,
)
_HOLDS_NOTHING = re.compile(
    r"(?:\\[hv]?phantom\s*\{[^{}]*\}|\\(?:text|textbf|mathrm|hspace\*?)\s*\{[\s?._…-]*\}"
    r"|\\(?:quad|qquad|square|Box|ldots|dots|cdots)(?![A-Za-z])|\\[,;:! ]|[\s?_.{}~$…]|\\_)*"
)


def answer_boxes(text: str) -> tuple[list[str], list[str]]:
    """(the boxes of the last sentence that has any, those before), without empty ones and repeated spellings."""
    sentence: dict[str, str] = {}  # by their spelling without spaces
    earlier: list[str] = []
    end = 0
    for start, stop in _box_spans(text):
        content = _unnest(text[start:stop].strip())
        if _HOLDS_NOTHING.fullmatch(content):
            continue
        between = text[end : max(start - len("\\boxed{"), end)]
        if sentence and (_SENTENCE_END.search(between) or _CORRECTION.search(between)):
            earlier += sentence.values()
            sentence = {}
        end = stop + 1
        sentence.setdefault("".join(content.split()), content)
    return list(sentence.values()), earlier


def content_of(gold: str) -> str:
    r"""A gold answer without its \boxed{...}: what its last sentence with a box holds, several values as a list."""
    return ", ".join(answer_boxes(gold)[0]) if "\\boxed" in gold else gold


def _unnest(content: str) -> str:
    if "\\boxed" not in content:
        return content
    content = content.replace("\\boxed", "").strip()
    whole = content.startswith("{") and content.endswith("}") and content.count("{") == 1
    return content[1:-1].strip() if whole else content


def extract_boxed(text: str) -> str | None:
    r"""Content of the last balanced \boxed{...} after the first </think>; None where there is none. Linear time."""
    answer = split_thought(text, opened=False)[1]
    boxes = find_boxes(text if answer is None else answer)
    return boxes[-1] if boxes else None


def verdict_shares(grades: Iterable[Grade]) -> dict[str, float]:
    """{"verifier/correct": share, ...}, every verdict named; {} for no grades."""
    verdicts = [grade.verdict for grade in grades]
    return {f"verifier/{v}": verdicts.count(v) / len(verdicts) for v in Verdict} if verdicts else {}
