"""Many runs as one: recipes are submitted, trained by whichever workers there are, and come back as finished folders.

    with Population(Path("runs/pop"), RayWorkers("auto"), width=16) as population:
        results = population.map(recipes)

A job is a recipe with an `output_dir` of its own. All that it makes is files that are whole or not there: checkpoints,
the model, and where it cannot be trained JOB.failed.json. So a worker or a node that dies loses nothing that was
finished: its job runs again and goes on from its newest whole checkpoint, and one that is finished is not run twice,
whoever finished it. Nodes share a file system.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TextIO

from mrt.errors import ConfigError
from mrt.runs.recipe import Recipe
from mrt.runs.rundir import RunState, inspect_run, write_json
from mrt.runs.steps import TAIL_LINES, TRIES, Display, Progress, last_object
from mrt.runs.tracking import METRICS
from mrt.runs.workers import LOST, LocalWorkers, Worker, Workers, end

POLL_SECONDS = 0.2
INTERRUPTED = (130, -signal.SIGINT)  # exit codes of a job that was asked to end


@dataclass(frozen=True)
class Result:
    """What became of a job: its folder, whether it is finished, how often it was started, and why it is not."""

    folder: Path
    finished: bool
    tries: int = 0
    message: str = ""


class Population:
    """Trains jobs `width` at a time.

    Args:
        folder: of the jobs' recipes, their logs and what failed.
        workers: where they run; processes of this machine if left out.
        width: jobs at a time.
        tries: how often a job is started whose process is killed.
        allow_code: as of `mrt train`.
        stream: where progress is shown (stderr if left out).
    """

    def __init__(
        self,
        folder: Path,
        workers: Workers | None = None,
        width: int = 2,
        *,
        tries: int = TRIES,
        allow_code: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        if width < 1 or tries < 1:
            raise ConfigError(f"width={width} and tries={tries} must be at least 1")
        self.folder, self.workers, self.tries = folder, workers or LocalWorkers(), tries
        self.allow_code = allow_code
        self.display = Display(stream or sys.stderr)
        self._pool = ThreadPoolExecutor(width, thread_name_prefix="population")
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._running: dict[str, tuple[Worker, Recipe]] = {}
        (folder / "logs").mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends what runs; what was finished stays, and the rest goes on when it is submitted again."""
        self._closing.set()
        with self._lock:
            running = [worker for worker, _ in self._running.values()]
        end(running)
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.display.clear()

    def submit(self, job: Recipe) -> Future[Result]:
        """Trains a job as soon as a place is free.

        Raises:
            ConfigError: for a folder that holds a run of another recipe.
        """
        inspect_run(Path(job.output_dir), job)
        return self._pool.submit(self._train, job)

    def map(self, jobs: Sequence[Recipe]) -> list[Result]:
        """The results of all jobs in their order, with the progress of those that run.

        Raises:
            ConfigError: for two jobs of one folder, and as `submit`.
        """
        folders = [str(Path(job.output_dir).resolve()) for job in jobs]
        if twice := sorted({folder for folder in folders if folders.count(folder) > 1}):
            raise ConfigError(f"two jobs write to {twice[0]}: each needs an output_dir of its own")
        futures = [self.submit(job) for job in jobs]
        while not all(future.done() for future in futures):
            time.sleep(POLL_SECONDS)
            if self.display.due():
                with self._lock:
                    shown = {name: _progress(job) for name, (_, job) in self._running.items()}
                self.display.show(shown)
        self.display.clear()
        return [future.result() for future in futures]

    def _train(self, job: Recipe) -> Result:
        folder, name = Path(job.output_dir), _name(job)
        failed = self.folder / f"{name}.failed.json"
        for attempt in range(1, self.tries + 1):
            if inspect_run(folder, job) is RunState.FINISHED:
                failed.unlink(missing_ok=True)
                return Result(folder, True, attempt - 1)
            code = self._start(job, name)
            if self._closing.is_set() or code in INTERRUPTED:
                return Result(folder, False, attempt, "interrupted")
            if code == LOST and attempt < self.tries:
                self.display.line(f"{name}: its process was killed; it runs again ({attempt + 1} of {self.tries})")
            elif code or inspect_run(folder, job) is not RunState.FINISHED:
                message = f"ended with exit code {code}; {self._tail(name)}"
                write_json(failed, {"job": name, "output_dir": str(folder), "exit_code": code, "message": message})
                self.display.line(f"{name}: failed, see {failed}")
                return Result(folder, False, attempt, message)
            else:
                self.display.line(f"{name}: done")
                failed.unlink(missing_ok=True)
                return Result(folder, True, attempt)
        raise AssertionError("unreachable: the last try ends in one of the branches above")

    def _start(self, job: Recipe, name: str) -> int:
        """Runs a job to its end; the exit code."""
        recipe = self.folder / f"{name}.yaml"
        recipe.write_text(job.to_yaml(), encoding="utf-8")
        command: list[Any] = [sys.executable, "-m", "mrt", "train", str(recipe), "--json"]
        command += ["--allow-code"] if self.allow_code else []
        log, answer = (self.folder / "logs" / f"{name}.{ending}" for ending in ("log", "json"))
        with self._lock:
            if self._closing.is_set():
                return LOST
            worker = self.workers.start(command, log, answer)
            self._running[name] = worker, job
        try:
            while (code := worker.poll()) is None:
                time.sleep(POLL_SECONDS)
            return code
        finally:
            with self._lock:
                del self._running[name]

    def _tail(self, name: str) -> str:
        log = self.folder / "logs" / f"{name}.log"
        if not log.is_file():
            return "it left no log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join([f"{log} ends with", *lines])


def _name(job: Recipe) -> str:
    """The last two parts of a job's folder: `rl2/seed-3` as rl2-seed-3."""
    return "-".join(Path(job.output_dir).parts[-2:])


def _progress(job: Recipe) -> Progress:
    last = last_object(Path(job.output_dir) / METRICS)
    return Progress(int(last.get("step", 0)), max(0, int(job.args.get("max_steps", 0))))
