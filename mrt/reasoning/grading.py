"""What an answer is worth: verdicts, where the answer stands in a completion, a grader for mathematics, TRL rewards.

Three things go wrong with verifiers in practice, and each is settled here. A hang becomes `TIMEOUT`: the comparison
runs in a process that is killed at its limit. A verifier that fails becomes `ERROR`, which is no zero: its `reward` is
None, so the trainer leaves the row out of its group's statistics and counts it. A gold answer that cannot be read is an
`ERROR` as well, never a match.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import re
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mrt.errors import ConfigError, DataError
from mrt.reasoning.math_process import MathWorker
from mrt.reasoning.math_text import Form, Unreadable, read

if TYPE_CHECKING:
    from mrt.reasoning.problems import ProblemSet

LogMetric = Callable[[str, float], None]


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


class MathGrader:
    """Grades mathematics by math-verify in killable processes; usable from any thread and inside an event loop.

    Processes start at the first item that needs one, survive a fork of the parent (the child starts its own) and end
    with the parent. `seconds` is wall-clock per item, `memory_mb` address space per process, `max_chars` the longest
    answer that is read (the text around it may be of any length). An answer beyond the limits is `UNPARSED`; one that
    gives several different boxes, or several values where one is asked, is `WRONG`.
    """

    def __init__(self, workers: int = 1, seconds: float = 5.0, memory_mb: int = 1024, max_chars: int = 20_000):
        if workers < 1 or seconds <= 0 or memory_mb < 128 or max_chars < 1:
            raise ConfigError(
                "MathGrader needs workers >= 1, seconds > 0, memory_mb >= 128 and max_chars >= 1; "
                f"got workers={workers}, seconds={seconds}, memory_mb={memory_mb}, max_chars={max_chars}"
            )
        if importlib.util.find_spec("math_verify") is None:
            raise ConfigError("grading mathematics needs math-verify; run `pip install math-verify==0.9.0`")
        self.max_chars = max_chars
        self._workers = [MathWorker(seconds, memory_mb) for _ in range(workers)]
        self._fill()
        _GRADERS.add(self)

    def grade(self, text: str, gold: str, opened: bool | None = None) -> Grade:
        """The verdict on a completion; `opened` where its prompt ended inside the thought (see `split_thought`)."""
        _, answer_part = split_thought(text, opened=opened)
        if answer_part is None:
            return Grade(Verdict.TRUNCATED, None, "the thought was never closed")
        boxes = find_boxes(answer_part)
        if not boxes:
            return Grade(Verdict.UNPARSED, None, "no \\boxed{...}")
        if len({"".join(box.split()) for box in boxes}) > 1:
            return Grade(Verdict.WRONG, boxes[-1], f"{len(boxes)} boxes that differ")
        return self.grade_answer(boxes[-1], gold)

    def grade_answer(self, answer: str, gold: str) -> Grade:
        """The verdict on a bare answer, the content of the box."""
        gold = (extract_boxed(gold) or "") if "\\boxed" in gold else gold
        try:
            wanted = read(gold, self.max_chars)
        except Unreadable as error:
            return Grade(Verdict.ERROR, answer, f"the gold answer {gold[:80]!r}: {error}")
        plain = re.search("[A-Za-z]", wanted.core) is None
        try:
            given = read(answer, self.max_chars, letter_units=plain, loose_words=bool(wanted.words))
        except Unreadable as error:
            return Grade(Verdict.UNPARSED, answer, str(error))
        return self._compare(answer, given, wanted)

    def _compare(self, answer: str, given: Form, wanted: Form) -> Grade:
        if wanted.words:
            return Grade(Verdict.CORRECT if given.words == wanted.words else Verdict.WRONG, answer)
        if len("".join(given.words)) > 3:  # shorter ones may be products of variables
            return Grade(Verdict.WRONG, answer, "words where the gold answer has none")
        for name, ours, theirs in (("base", wanted.base, given.base), ("unit", wanted.unit, given.unit)):
            if ours and theirs and ours != theirs:
                return Grade(Verdict.WRONG, answer, f"the {name} differs")
        pool = self._idle
        worker = pool.get()
        try:
            reply = worker.ask(wanted.core, given.core, given.key == wanted.key)
        finally:
            pool.put(worker)
        return Grade(Verdict(reply["verdict"]), answer, reply["detail"])

    def grade_many(self, pairs: Sequence[tuple[str, str]], opened: bool | None = None) -> list[Grade]:
        """Grades of (text, gold) pairs in order, `workers` at a time."""
        if len(self._workers) == 1 or len(pairs) < 2:
            return [self.grade(text, gold, opened) for text, gold in pairs]
        with ThreadPoolExecutor(len(self._workers)) as threads:
            return list(threads.map(lambda pair: self.grade(pair[0], pair[1], opened), pairs))

    def close(self) -> None:
        """Ends the processes. Call it when nothing is being graded; a later item starts new ones."""
        for worker in self._workers:
            worker.close()

    def _fill(self) -> None:
        self._idle: queue.LifoQueue[MathWorker] = queue.LifoQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def _after_fork(self) -> None:
        for worker in self._workers:
            worker.forget()
        self._fill()

    def __enter__(self) -> MathGrader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_GRADERS: weakref.WeakSet[MathGrader] = weakref.WeakSet()


def _forget_in_child() -> None:
    for grader in list(_GRADERS):
        grader._after_fork()


os.register_at_fork(after_in_child=_forget_in_child)


class MathReward:
    """TRL reward function for a dataset with the column `solution`: 1.0, 0.0, or None where nothing can be said.

    `opened` for models whose chat template opens the thought in the prompt: a completion that never closes it is then
    truncated, even where its thought holds a box. Verdict shares go to TRL's `log_metric`.
    """

    def __init__(self, grader: MathGrader | None = None, opened: bool = False):
        self.grader = grader or MathGrader()
        self.opened = opened
        self.__name__ = "math_reward"

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        solution: Sequence[str] | None = None,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Rewards (B,). Raises `DataError` without the column `solution`."""
        if solution is None:
            raise DataError("math_reward needs the dataset column 'solution'; map your answer column to it")
        grades = self.grader.grade_many(list(zip(map(_text, completions), solution, strict=True)), self.opened)
        return _rewards(grades, log_metric)


class ProblemReward:
    """TRL reward function that grades by a problem set; reads the columns of `to_dataset`: key, solution, data."""

    def __init__(self, problem_set: ProblemSet, opened: bool = False):
        self.problem_set = problem_set
        self.opened = opened
        self.__name__ = f"{problem_set.name}_reward"

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        key: Sequence[str] | None = None,
        solution: Sequence[str] | None = None,
        data: Sequence[str] | None = None,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Rewards (B,). Raises `DataError` where a column is missing."""
        from mrt.reasoning.problems import Problem

        if key is None or solution is None or data is None:
            missing = [
                name for name, column in (("key", key), ("solution", solution), ("data", data)) if column is None
            ]
            raise DataError(f"{self.__name__} needs the dataset columns {missing}; `to_dataset` writes them")
        grades = []
        for prompt, completion, name, gold, extra in zip(prompts, completions, key, solution, data, strict=True):
            problem = Problem(name, _text(prompt), gold, json.loads(extra))
            text = _text(completion)
            grades.append(self.problem_set.grade(problem, "<think>" + text if self.opened else text))
        return _rewards(grades, log_metric)


def _text(message: Any) -> str:
    """The text of a completion or prompt: a string, or the last message of a list."""
    return message if isinstance(message, str) else str(message[-1].get("content") or "")


def _rewards(grades: list[Grade], log_metric: LogMetric | None) -> list[float | None]:
    if log_metric is not None:
        for name, share in verdict_shares(grades).items():
            log_metric(name, share)
    return [grade.reward for grade in grades]
