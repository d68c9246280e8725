"""Modules of the tests as processes of their own: one, or several that talk to each other."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support import ROOT

GRACE = 30.0  # seconds that the other processes get to end when one has failed, and all of them to tell where they hang


def run_module(
    module: str, *arguments: object, processes: int = 1, timeout: float = 3600
) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ARGUMENTS` from the checkout, on CPUs when there are several processes; fails as it fails.

    Processes that are not done after `timeout` seconds are ended; the failure shows where each of them was.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = run_ranks(command, processes, timeout)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done


def run_ranks(command: list[str], processes: int, timeout: float) -> subprocess.CompletedProcess[str]:
    """One command as several ranks over the loopback, with the variables that torchrun sets; their outputs in order.

    torchrun's own rendezvous asks for the machine's name and address, which a container may be slow to know, and its
    agent takes as long to start as the processes themselves; a test of the launcher runs the launcher.
    """
    environment = {**os.environ, "PYTHONFAULTHANDLER": "1"}
    if processes > 1:
        # accelerate needs to be told to let processes without a GPU talk to each other
        environment |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        environment |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    with TemporaryDirectory() as folder, contextlib.ExitStack() as files:
        started, outputs = [], [Path(folder) / f"{rank}.{kind}" for kind in ("out", "err") for rank in range(processes)]
        opened = [files.enter_context(path.open("wb")) for path in outputs]
        for rank in range(processes):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
            streams = {"stdout": opened[rank], "stderr": opened[processes + rank]}
            started.append(subprocess.Popen(command, cwd=ROOT, env=environment | own, **streams))
        code = _wait(started, time.monotonic() + timeout)
        texts = [path.read_text(errors="replace") for path in outputs]
    return subprocess.CompletedProcess(command, code, "".join(texts[:processes]), "".join(texts[processes:]))


def _wait(started: list[subprocess.Popen[bytes]], deadline: float) -> int:
    """The first exit code that is not 0, or 0. After a failure or at the deadline the rest are ended with a dump."""
    try:
        while any(process.poll() is None for process in started):
            if any(process.poll() for process in started):
                deadline = min(deadline, time.monotonic() + GRACE)
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        failed = [code for process in started if (code := process.poll())]
        late = [process for process in started if process.poll() is None]
        for process in late:
            process.send_signal(signal.SIGABRT)  # faulthandler writes the stacks of its threads
        for process in late:
            process.wait(GRACE)
        return failed[0] if failed else -signal.SIGABRT if late else 0
    finally:
        for process in started:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
