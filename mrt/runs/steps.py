"""Commands as subprocesses: in the order of their dependencies, `width` at a time, with live progress and a log each.

A step that is finished is skipped, whoever finished it; one that fails stops the others and shows the end of its log.
One whose process was killed from outside runs again, `tries` times in all.
"""

import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mrt.errors import ConfigError
from mrt.runs.rundir import write_json
from mrt.runs.workers import LOST, LocalWorkers, Worker, Workers, end

POLL_SECONDS = 0.5
MEMORY_SECONDS = 5.0  # between two looks at the memory of everything that runs: the kernel walks all its pages
DRAW_SECONDS = 1.0  # between two drawings of the line in a terminal
LINE_SECONDS = 30.0  # between two lines of progress where there is no terminal
TAIL_LINES = 15
TRIES = 3  # of a step whose process is killed


class StepFailed(Exception):
    """A step's command ended with an error that is not a user's mistake; the message holds the end of its log."""


@dataclass(frozen=True)
class Progress:
    """How far a step has come: `done` of `total` (0 where it is not known yet), and a short note."""

    done: int = 0
    total: int = 0
    note: str = ""


@dataclass(frozen=True)
class Step:
    """A command, what must finish before it, how to tell that it is finished, how to read its progress, its threads."""

    name: str
    command: Sequence[str]
    finished: Callable[[], bool]
    progress: Callable[[], Progress] = Progress
    needs: tuple[str, ...] = ()
    threads: int = 1


class StepRunner:
    """Runs steps `width` at a time, earlier ones first. Logs go to `folder`/logs, seconds and memory to timings.json.

    `workers` start the commands: processes of this machine, where nothing else is said.
    Times add up over interrupted calls. Raises ConfigError when a step ends with exit code 2 or needs one that never
    comes, KeyboardInterrupt when it was interrupted, StepFailed for any other failure; whatever happens, no
    child outlives the call.
    """

    def __init__(
        self,
        folder: Path,
        steps: Sequence[Step],
        width: int = 2,
        stream: TextIO | None = None,
        *,
        workers: Workers | None = None,
        tries: int = TRIES,
    ) -> None:
        self.folder, self.steps, self.width, self.tries = folder, steps, width, tries
        self.workers: Workers = workers or LocalWorkers()
        self.display = Display(stream or sys.stderr)
        self.running: dict[str, Worker] = {}
        self.lost: dict[str, int] = {}  # how often a step's process was killed
        self.started: dict[str, float] = {}
        self.done: set[str] = set()
        self.measured = -math.inf
        self.timings = self._read_timings()

    def run(self) -> dict[str, Any]:
        """Runs what is not finished yet; returns the content of timings.json."""
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        begin, before = time.monotonic(), self.timings["seconds"]
        try:
            while len(self.done) < len(self.steps):
                known = len(self.done)
                self._launch()
                if not self.running and len(self.done) == known:
                    raise ConfigError(self._stuck())
                for step in [s for s in self.steps if s.name in self.running]:
                    self._collect(step)
                self.timings["seconds"] = round(before + time.monotonic() - begin, 1)
                self._measure()
                if self.display.due():
                    self.display.show({s.name: s.progress() for s in self.steps if s.name in self.running})
                if self.running:
                    time.sleep(POLL_SECONDS)
        finally:
            self._terminate()
            self.display.clear()
            write_json(self.folder / "timings.json", self.timings)
        return self.timings

    def _read_timings(self) -> dict[str, Any]:
        path = self.folder / "timings.json"
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {"seconds": 0.0, "peak_resident_gib": 0.0, "steps": {}, "cores": os.cpu_count(), **kept}

    def _measure(self) -> None:
        now = time.monotonic()
        if now - self.measured >= MEMORY_SECONDS:
            self.measured = now
            self.timings["peak_resident_gib"] = max(self.timings["peak_resident_gib"], resident_gib())

    def _launch(self) -> None:
        """Starts what is ready. While all slots are taken nothing is asked: `finished` may read a recipe."""
        for step in self.steps:
            if len(self.running) >= self.width:
                return
            if step.name in self.done or step.name in self.running or not self.done.issuperset(step.needs):
                continue
            if step.finished():
                self.done.add(step.name)
                self.display.line(f"{step.name}: finished before")
            else:
                log, answer = self._log(step, "log"), self._log(step, "json")
                self.running[step.name] = self.workers.start(step.command, log, answer, step.threads)
                self.started[step.name] = time.monotonic()
                self.display.line(f"{step.name}: started")

    def _stuck(self) -> str:
        step = next(step for step in self.steps if step.name not in self.done)
        missing = ", ".join(sorted({*step.needs} - self.done))
        return f"the step '{step.name}' needs {missing}, which none of the steps makes"

    def _collect(self, step: Step) -> None:
        code = self.running[step.name].poll()
        if code is None:
            return
        del self.running[step.name]
        seconds = self._count(step.name)
        if code in (130, -signal.SIGINT):
            raise KeyboardInterrupt
        lost = self.lost[step.name] = self.lost.get(step.name, 0) + (code == LOST)
        if code == LOST and lost < self.tries:
            self.display.line(f"{step.name}: its process was killed; it runs again ({lost + 1} of {self.tries})")
            return
        if code != 0 or not step.finished():
            tail = "\n".join(
                self._log(step, "log").read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
            )
            message = f"the step '{step.name}' ended with exit code {code}; {self._log(step, 'log')} ends with\n{tail}"
            raise ConfigError(message) if code == 2 else StepFailed(message)
        self.done.add(step.name)
        self.display.line(f"{step.name}: done in {seconds:.0f} s")

    def _count(self, name: str) -> float:
        seconds = time.monotonic() - self.started.pop(name)
        self.timings["steps"][name] = round(self.timings["steps"].get(name, 0.0) + seconds, 1)
        return seconds

    def _terminate(self) -> None:
        end(list(self.running.values()))
        for name in self.running:
            self._count(name)
        self.running.clear()

    def _log(self, step: Step, ending: str) -> Path:
        return self.folder / "logs" / f"{step.name}.{ending}"


class Display:
    """One redrawn line in a terminal, else a line every half minute."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.live = stream, stream.isatty()
        self.begin = self.last = time.monotonic()
        self.drawn = False

    def due(self) -> bool:
        """Whether `show` would draw something now; reading progress is not free."""
        return time.monotonic() - self.last >= (DRAW_SECONDS if self.live else LINE_SECONDS)

    def line(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        print(f"[{self._clock()}] {text}", file=self.stream, flush=True)

    def show(self, progress: Mapping[str, Progress]) -> None:
        """The progress of everything that runs."""
        if not progress or not (self.live or self.due()):
            return
        self.last = time.monotonic()
        text = f"[{self._clock()}] " + " | ".join(self._part(name, item) for name, item in progress.items())
        if not self.live:
            print(text, file=self.stream, flush=True)
            return
        columns = shutil.get_terminal_size().columns - 1
        self.stream.write("\r\x1b[K" + text[:columns])
        self.stream.flush()
        self.drawn = True

    def clear(self) -> None:
        """Clears the redrawn line."""
        if self.drawn:
            self.stream.write("\r\x1b[K")
            self.drawn = False

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self.begin)
        return f"{seconds // 60:02d}:{seconds % 60:02d}"

    @staticmethod
    def _part(name: str, item: Progress) -> str:
        if not item.total:
            return f"{name} ..."
        filled = min(10, 10 * item.done // item.total)
        return f"{name} [{'#' * filled}{'.' * (10 - filled)}] {item.done}/{item.total} {item.note}".rstrip()


def resident_gib() -> float:
    """Memory held by this process and its children, in GiB; pages that they share count once where that is known."""
    import psutil

    total = 0
    here = psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        try:
            memory = process.memory_full_info()
        except psutil.Error:  # ended in the meantime
            continue
        total += getattr(memory, "pss", memory.rss)
    return round(total / 2**30, 3)


def last_object(path: Path, tail: int = 16_384) -> dict[str, Any]:
    """The last whole JSON object of a .jsonl file that another process appends to; {} where there is none yet."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - tail))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except ValueError:  # the line that is being written, or the one that the tail cut
            continue
        if isinstance(found, dict):
            return found
    return {}


def count_lines(path: Path) -> int:
    """Lines of a file that may not be there yet."""
    try:
        with path.open("rb") as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    except OSError:
        return 0
