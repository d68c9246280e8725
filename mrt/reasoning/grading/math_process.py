"""The parent's end of a killable math worker: starts it, asks it, and kills it when it does not answer.

Plain subprocesses and pipes, so that it works the same from a main thread, another thread and inside an event loop: no
signal handler, no alarm and no semaphore in the parent. The worker's own timer ends what takes too long; half a second
later the parent goes on without an answer, and a worker that is silent twice in a row it kills. A parent killed with -9
closes the pipe: an idle grader ends at once, a busy one at its timer, and the keeper follows. (PR_SET_PDEATHSIG would
not do: it fires when the *thread* that started the process ends.)
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

START_SECONDS = 120.0  # loading sympy on a busy machine
GRACE_SECONDS = 0.5  # what the parent allows over the worker's own timer

Reply = dict[str, Any]


class MathWorker:
    """One worker process, started at the first question; for one thread at a time."""

    script = Path(__file__).with_name("math_worker.py").resolve()

    def __init__(self, seconds: float, memory_mb: int):
        self.seconds, self.memory_mb = seconds, memory_mb
        self._process: subprocess.Popen[bytes] | None = None
        self._finalizer: weakref.finalize[..., MathWorker] | None = None
        self._buffer = b""
        self._asked = 0
        self._silent = False  # to the last question

    def ask(self, gold: str, answer: str, same: bool, percent: str = "", written: bool = False) -> Reply:
        """{"verdict", "detail"} of one pair; once the worker runs, within `seconds` + GRACE_SECONDS.

        `same`: spelled alike; `percent`: "gold", "answer" or "both" carried the sign; `written`: a gold answer that
        cannot be parsed is compared as it is written.
        """
        problem = self._start()
        if problem:
            return {"verdict": "error", "detail": problem}
        self._asked += 1
        question: Reply = {"id": self._asked, "gold": gold, "answer": answer, "same": same, "percent": percent}
        question["written"] = written
        deadline = time.monotonic() + self.seconds + GRACE_SECONDS
        written = self._write(json.dumps(question).encode() + b"\n", deadline)
        reply = self._read(deadline) if written else None
        while reply is not None and reply.get("id", self._asked) != self._asked:  # the end of an earlier question
            reply = self._read(deadline)
        if reply is None and (self._silent or not written):
            self.close()
        self._silent = reply is None
        return reply or {"verdict": "timeout", "detail": f"silent after {self.seconds:g} s"}

    def _start(self) -> str:
        """'' once a worker is ready, else what went wrong."""
        if self._process is not None and self._process.poll() is None:
            return ""
        self.close()
        command = [sys.executable, "-P", str(self.script)]
        try:
            self._process = subprocess.Popen(
                [*command, str(self.seconds), str(self.memory_mb)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env={**os.environ, "PYTHONHASHSEED": "0"},  # sympy's order of terms, hence its verdicts, hang on it
                start_new_session=True,  # Ctrl-C in the terminal is the parent's business
            )
        except OSError as error:
            return f"the math worker could not be started: {error}"
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._finalizer = weakref.finalize(self, _kill, self._process, os.getpid())
        reply = self._read(time.monotonic() + START_SECONDS) or {"detail": f"silent for {START_SECONDS:g} s"}
        if reply.get("verdict") != "ready":
            self.close()
            return f"the math worker did not start: {reply['detail']}"
        return ""

    def _write(self, line: bytes, deadline: float) -> bool:
        """False at the deadline. A broken pipe counts as written: `_read` then meets the end of the replies."""
        assert self._process is not None
        assert self._process.stdin is not None
        pipe = self._process.stdin.fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLOUT)
        while line:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if poll.poll(left * 1000):
                try:
                    line = line[os.write(pipe, line) :]
                except BrokenPipeError:
                    return True
        return True

    def _read(self, deadline: float) -> Reply | None:
        """The next reply; None at the deadline."""
        assert self._process is not None
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while True:
            while b"\n" in self._buffer:
                line, self._buffer = self._buffer.split(b"\n", 1)
                if line.endswith(b"}"):  # else empty, or what a killed grader had written of its reply
                    reply: Reply = json.loads(line)
                    return reply
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            if poll.poll(left * 1000):
                chunk = os.read(pipe, 65536)
                if not chunk:
                    self.close()
                    return {"verdict": "error", "detail": "the math worker died"}
                self._buffer += chunk

    def close(self) -> None:
        """Kills the processes; the next question starts new ones."""
        if self._finalizer is not None:
            self._finalizer()
        self._process, self._finalizer, self._buffer = None, None, b""

    def forget(self) -> None:
        """In a forked child: lets go of the parent's worker without touching it."""
        if self._finalizer is not None:
            self._finalizer.detach()
        if self._process is not None:
            self._process.returncode = 0  # not ours to wait for
            _close_pipes(self._process)
        self._process, self._finalizer, self._buffer = None, None, b""


def _kill(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:
        return
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    _close_pipes(process)


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
