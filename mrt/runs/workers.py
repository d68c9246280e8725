"""Where commands run: as processes of this machine, or on the nodes of a Ray cluster.

Both start a command with its output in files, and say whether it has ended. What the command makes are files as well,
whole or not there, so that a process or a node that dies loses nothing that was finished.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from mrt.errors import ConfigError

GRACE_SECONDS = 10.0  # from SIGTERM to SIGKILL
LOST = -signal.SIGKILL  # the exit code of a command whose worker or node died


class Worker(Protocol):
    """One command that was started."""

    def poll(self) -> int | None:
        """The exit code, negative where a signal ended it; None while it runs."""

    def terminate(self) -> None:
        """Asks it to end."""

    def kill(self) -> None:
        """Ends it."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises subprocess.TimeoutExpired."""


class Workers(Protocol):
    """What starts commands."""

    def start(self, command: Sequence[str], log: Path, answer: Path, threads: int = 1) -> Worker:
        """Starts a command; stdout replaces the file `answer`, stderr is appended to `log`."""


class LocalWorkers:
    """Processes of this machine."""

    def start(self, command: Sequence[str], log: Path, answer: Path, threads: int = 1) -> Worker:
        """See `Workers`."""
        return _begin(command, log, answer, child_environment(threads))


class RayWorkers:
    """Tasks of a Ray cluster, `threads` CPUs each. Nodes share a file system and an environment with this machine.

    Args:
        address: of a cluster that runs ("auto": the one of this machine); None starts one here for as long as this
            process lives.
        cpus: of a cluster that is started here; all that there are if left out.

    Raises:
        ConfigError: without Ray (extra `ray`), and for a cluster that does not answer.
    """

    def __init__(self, address: str | None = None, cpus: int | None = None) -> None:
        try:
            ray: Any = import_module("ray")
        except ImportError as error:
            raise ConfigError(
                "a population on Ray needs Ray: pip install 'mrt-rl[ray]' (2.60), or leave --ray out"
            ) from error
        self.ray = ray
        if not ray.is_initialized():
            options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
            if address is None:
                options |= {"include_dashboard": False, "num_cpus": cpus}
            try:
                ray.init(address=address, **options)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ConfigError(f"no Ray cluster answers at {address!r}: {str(error).splitlines()[0]}") from error

    def start(self, command: Sequence[str], log: Path, answer: Path, threads: int = 1) -> Worker:
        """See `Workers`."""
        remote = self.ray.remote(num_cpus=threads, max_retries=0)(_run)
        asked = [
            list(command),
            str(log.resolve()),
            str(answer.resolve()),
            dict(child_environment(threads)),
            os.getcwd(),
        ]
        return RayTask(self.ray, remote.remote(*asked))


def workers_at(ray: str | None) -> Workers:
    """Those of a Ray cluster: its address, `auto` for that of this machine, `local` for one that is started here;
    processes of this machine where nothing is said.
    """
    if not ray:
        return LocalWorkers()
    return RayWorkers(None if ray == "local" else ray)


class RayTask:
    """A command on a node of a cluster."""

    def __init__(self, ray: Any, reference: Any) -> None:
        self.ray, self.reference = ray, reference
        self.code: int | None = None

    def poll(self) -> int | None:
        """See `Worker`."""
        return self._look(0.0)

    def terminate(self) -> None:
        """See `Worker`."""
        if self.poll() is None:
            self.ray.cancel(self.reference, force=False)

    def kill(self) -> None:
        """See `Worker`."""
        if self.poll() is None:
            self.ray.cancel(self.reference, force=True)

    def wait(self, timeout: float | None = None) -> int:
        """See `Worker`."""
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("a task of Ray", timeout or 0.0)
        return code

    def _look(self, timeout: float | None) -> int | None:
        if self.code is None:
            done, _ = self.ray.wait([self.reference], timeout=timeout)
            if done:
                try:
                    self.code = int(self.ray.get(self.reference))
                except self.ray.exceptions.RayError:  # its worker or node died, or it was cancelled
                    self.code = LOST
        return self.code


def _run(command: list[str], log: str, answer: str, environment: dict[str, str], folder: str) -> int:
    """Runs a command on the node that this is called on, and returns its exit code. It dies with its caller."""
    os.chdir(folder)
    child = _begin(command, Path(log), Path(answer), environment, before=_die_with_parent)
    try:
        return child.wait()
    except BaseException:  # cancelled: Ray raises KeyboardInterrupt here
        end([child])
        raise


def _begin(
    command: Sequence[str], log: Path, answer: Path, environment: Mapping[str, str], before: Any = None
) -> subprocess.Popen[bytes]:
    with log.open("ab") as errors, answer.open("wb") as output:
        return subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=environment, preexec_fn=before
        )


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def end(running: Sequence[Worker]) -> None:
    """Ends commands: they are asked, and killed where they are not done after `GRACE_SECONDS`."""
    for worker in running:
        worker.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for worker in running:
        try:
            worker.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def child_environment(threads: int = 1) -> dict[str, str]:
    """One thread each where they run side by side; offline; no bars in the logs."""
    quiet = {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {**os.environ, **quiet, "TQDM_DISABLE": "1", "PYTHONUNBUFFERED": "1"}
