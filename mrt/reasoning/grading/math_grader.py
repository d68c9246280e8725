"""Mathematical answers: math-verify in a process of its own, within limits of time and memory."""

from __future__ import annotations

import importlib.util
import os
import queue
import re
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from mrt.errors import ConfigError
from mrt.reasoning.grading.math_process import MathWorker
from mrt.reasoning.grading.math_text import Form, Unreadable, read
from mrt.reasoning.grading.verdict import Grade, Verdict, extract_boxed, find_boxes, split_thought


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
