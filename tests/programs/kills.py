"""Trains to the end once, then again while it is killed with SIGKILL at random moments and started anew until done.

    python -m tests.programs.kills spawn|fork KILLS SEED FOLDER MODULE [ARGUMENT ...]

FOLDER/alone and FOLDER/killed are what is left of the two; a JSON line says at which moments it struck and what digest
each ended with. `spawn` starts a new interpreter each time. `fork` starts the bandit as a fork of this process, which
has everything imported: as real a process and a kill, without seconds of imports for each.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path


class Run:
    """One process of a training program. It prints a line when it is ready, and one for each log."""

    def __init__(self, how: str, command: list[str]) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.dup2(writer, 1)
            try:
                if how == "spawn":
                    os.execv(sys.executable, [sys.executable, "-u", "-m", *command])
                run_here(command)
                os._exit(0)
            finally:
                os._exit(1)
        os.close(writer)
        self.lines = os.fdopen(reader)
        line = self.lines.readline()
        if line != "ready\n":
            raise SystemExit(f"{command} did not start: {line}{self.lines.read()}")

    def end(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def digest(self) -> str:
        """Waits for the end; the hash of weights, optimiser and schedule that it printed."""
        lines = self.lines.readlines()
        if self.end() != 0:
            raise SystemExit("".join(lines))
        return next(line.split()[1] for line in lines if line.startswith("digest"))

    def kill_after(self, logs: int, seconds: float) -> bool:
        """SIGKILL so long after so many logs, however fast the machine is; False when the run was over before."""
        for _ in range(logs):
            self.lines.readline()
        time.sleep(seconds)
        os.kill(self.pid, signal.SIGKILL)
        return self.end() == -signal.SIGKILL


def run_here(command: list[str]) -> None:
    import traceback

    from tests.support import bandit

    sys.stdout = os.fdopen(1, "w", buffering=1)
    try:
        bandit.main(*command[1:])
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def main(how: str, kills: str, seed: str, folder: str, module: str, *arguments: str) -> None:
    if how == "fork":
        from tests.support import bandit  # noqa: F401  once, for all forks
    rng, times = random.Random(int(seed)), int(kills)
    kind = [item for item in arguments if "=" not in item]
    options = [item for item in arguments if "=" in item]

    def start(name: str) -> Run:
        return Run(how, [module, *kind, str(Path(folder) / name), *options])

    expected = start("alone").digest()
    logs = len((Path(folder) / "alone" / "metrics.jsonl").read_text().splitlines())
    # A kill throws back to the last checkpoint, so a run outlives all of them at this stride.
    moments = [(rng.randint(0, logs // (2 * times)), rng.uniform(0, 0.1)) for _ in range(times)]  # room for the delays
    struck = sum(start("killed").kill_after(*moment) for moment in moments)
    ended = start("killed").digest()
    print(json.dumps({"struck": struck, "moments": moments, "alone": expected, "killed": ended}))


if __name__ == "__main__":
    main(*sys.argv[1:])
