"""Mathematical answers: math-verify in a process of its own, within limits of time and memory."""

from __future__ import annotations

import functools
import importlib.util
import os
import queue
import re
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from mrt.errors import ConfigError
from mrt.reasoning.grading.compare import Question, compare
from mrt.reasoning.grading.form import read
from mrt.reasoning.grading.kinds import Kind
from mrt.reasoning.grading.math_process import MathWorker
from mrt.reasoning.grading.math_text import Unreadable
from mrt.reasoning.grading.quick import decide
from mrt.reasoning.grading.verdict import Grade, Verdict, answer_boxes, content_of, split_thought

BOXES = ("last", "all")
MAX_KNOWN, MAX_REMEMBERED = 8192, 500  # grades that are remembered, characters of an answer among them
MAX_EQUAL_BOXES = 8  # in one sentence; more are compared as a list only
_read = functools.lru_cache(maxsize=4096)(read)  # a group shares its gold answer, and often its answers


class MathGrader:
    """Grades mathematics by math-verify in killable processes; usable from any thread and inside an event loop.

    Processes start at the first item that needs one, survive a fork of the parent (the child starts its own) and end
    with the parent. `seconds` is wall-clock per item, `memory_mb` address space per process, `max_chars` the longest
    answer that is read (the text around it may be of any length). An answer beyond the limits is `UNPARSED`.

    `boxes` says which count where there are several. Empty ones (a place in the restated task) never do, and spellings
    of one value are one answer. "last": those of the last sentence that holds one; if their values differ they are
    a list. "all": the same, but one of another value anywhere before makes the answer `WRONG`.
    """

    def __init__(
        self,
        workers: int = 1,
        seconds: float = 5.0,
        memory_mb: int = 1024,
        max_chars: int = 20_000,
        boxes: str = "last",
    ):
        if workers < 1 or seconds <= 0 or memory_mb < 128 or max_chars < 1:
            raise ConfigError(
                "MathGrader needs workers >= 1, seconds > 0, memory_mb >= 128 and max_chars >= 1; "
                f"got workers={workers}, seconds={seconds}, memory_mb={memory_mb}, max_chars={max_chars}"
            )
        if boxes not in BOXES:
            raise ConfigError(f"MathGrader: boxes must be one of {', '.join(BOXES)}, got {boxes!r}")
        if importlib.util.find_spec("math_verify") is None:
            raise ConfigError("grading mathematics needs math-verify; run `pip install math-verify==0.9.0`")
        self.max_chars, self.boxes = max_chars, boxes
        self._known: dict[tuple[str, str], Grade] = {}
        self._workers = [MathWorker(seconds, memory_mb) for _ in range(workers)]
        self._fill()
        _GRADERS.add(self)

    def grade(self, text: str, gold: str, opened: bool | None = None) -> Grade:
        """The verdict on a completion; `opened` where its prompt ended inside the thought (see `split_thought`)."""
        _, answer_part = split_thought(text, opened=opened)
        if answer_part is None:
            return Grade(Verdict.TRUNCATED, None, "the thought was never closed")
        boxes, earlier = answer_boxes(answer_part)
        if not boxes:
            return Grade(Verdict.UNPARSED, None, "no \\boxed{...} that holds anything")
        if self.boxes == "all":
            grades = [self.grade_answer(box, gold) for box in dict.fromkeys([*earlier, *boxes])]
            if len(grades) > 1 and earlier and any(grade.verdict is not Verdict.CORRECT for grade in grades):
                return _worst(grades) or Grade(Verdict.WRONG, boxes[-1], f"{len(grades)} boxes that differ")
        if len(boxes) == 1:
            return self.grade_answer(boxes[0], gold)
        listed = self.grade_answer(", ".join(boxes), gold)
        if listed.verdict in (Verdict.CORRECT, Verdict.ERROR, Verdict.TIMEOUT) or len(boxes) > MAX_EQUAL_BOXES:
            return listed
        grades = [self.grade_answer(box, gold) for box in boxes]
        if all(grade.verdict is Verdict.CORRECT for grade in grades):
            return grades[-1]
        return Grade(
            Verdict.WRONG, boxes[-1], f"{len(boxes)} boxes that differ in one sentence, and no list that is right"
        )

    def grade_answer(self, answer: str, gold: str) -> Grade:
        """The verdict on a bare answer, the content of the box.

        It is remembered: the completions of a group share their gold answer, and often their answers.
        """
        known = self._known.get((answer, gold))
        if known is not None:
            return known
        grade = self._compare(answer, gold)
        if grade.reward is not None and len(answer) < MAX_REMEMBERED and len(gold) < MAX_REMEMBERED:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[answer, gold] = grade
        return grade

    def _compare(self, answer: str, gold: str) -> Grade:
        try:
            wanted = _read(content_of(gold), self.max_chars)
        except Unreadable as error:
            return Grade(Verdict.ERROR, answer, f"the gold answer {gold[:80]!r}: {error}")
        plain = wanted.kind is Kind.MATH and re.search("[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", wanted.core)) is None
        try:
            given = _read(answer, self.max_chars, plain, wanted.kind is Kind.WORDS)
        except Unreadable as error:
            return Grade(Verdict.UNPARSED, answer, str(error))
        question = compare(wanted, given)
        if isinstance(question, str):
            return Grade(Verdict.WRONG if question else Verdict.CORRECT, answer, question)
        detail = f"compared as {wanted.kind}" if wanted.kind is not Kind.MATH else ""
        for one in question:
            verdict, found = self._ask(one)
            if verdict is not Verdict.CORRECT:
                return Grade(verdict, answer, found)
            detail = detail or found
        return Grade(Verdict.CORRECT, answer, detail)

    def _ask(self, question: Question) -> tuple[Verdict, str]:
        equal = decide(question)
        if equal is not None:
            return Verdict.CORRECT if equal else Verdict.WRONG, ""
        return self._ask_worker(question)

    def _ask_worker(self, question: Question) -> tuple[Verdict, str]:
        pool = self._idle
        worker = pool.get()
        try:
            reply = worker.ask(*question)
        finally:
            pool.put(worker)
        return Verdict(reply["verdict"]), reply["detail"]

    def grade_many(self, pairs: Sequence[tuple[str, str]], opened: bool | None = None) -> list[Grade]:
        """Grades of (text, gold) pairs in order, `workers` at a time."""
        if len(self._workers) == 1 or len(pairs) < 2:
            return [self.grade(text, gold, opened) for text, gold in pairs]
        with ThreadPoolExecutor(len(self._workers)) as threads:
            return list(threads.map(lambda pair: self.grade(pair[0], pair[1], opened), pairs))

    def start(self) -> None:
        """Starts the processes now, so that the first item that needs one does not wait for sympy to load."""
        for worker in self._workers:
            worker.ask("1", "1", True)

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


def _worst(grades: Sequence[Grade]) -> Grade | None:
    """The first that says nothing about the answer (a gold that cannot be used, a timeout)."""
    return next((grade for grade in grades if grade.reward is None), None)


_GRADERS: weakref.WeakSet[MathGrader] = weakref.WeakSet()


def _forget_in_child() -> None:
    for grader in list(_GRADERS):
        grader._after_fork()


os.register_at_fork(after_in_child=_forget_in_child)
