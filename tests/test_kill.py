"""Runs killed with `kill -9` and started again until done end exactly as the run that was left alone.

Real processes, killed at random moments of their training; and, one level deeper, one save that dies at each of its
file operations in turn (tests/test_checkpoint.py has the same for a bare save).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mrt.checkpoint import newest_checkpoint

PROGRAMS = Path(__file__).parent / "programs"
CLOCK = {"total_flos", "time", "step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second"}


class Run:
    """One process of a training program; `ready` is when its training starts."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROGRAMS
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "ready\n", line + self.process.communicate()[1]
        self.ready = time.monotonic()

    def digest(self) -> str:
        """Waits for the end; the hash of weights, optimiser and schedule that it printed."""
        out, err = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, err
        return next(line.split()[1] for line in out.splitlines() if line.startswith("digest"))

    def kill_after(self, seconds: float) -> bool:
        """SIGKILL that long after training began; False when the run was faster."""
        time.sleep(max(0.0, self.ready + seconds - time.monotonic()))
        if self.process.poll() is not None:
            return False
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        return self.process.returncode == -signal.SIGKILL


def logged(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in CLOCK} for line in lines]


def compare_with_killed(program: list[str], options: list[str], kills: int, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    run = Run([*program, str(alone), *options])
    expected = run.digest()
    duration = time.monotonic() - run.ready
    struck, waits = 0, []
    while struck < kills:
        # Short enough that the run is not over before all kills have struck, long enough to reach a checkpoint at times.
        waits.append(rng.uniform(0, 2 * duration / kills))
        run = Run([*program, str(killed), *options])
        if not run.kill_after(waits[-1]):
            break
        struck += 1
    assert Run([*program, str(killed), *options]).digest() == expected, f"killed after {waits} of {duration:.2f} s"
    assert logged(killed) == logged(alone)
    assert (killed / "trials.jsonl").read_bytes() == (alone / "trials.jsonl").read_bytes()
    assert struck >= kills / 2, f"only {struck} kills struck: the job is too short for {kills}"
    assert newest_checkpoint(killed) is not None


def test_three_kills(tmp_path: Path) -> None:
    compare_with_killed(["bandit.py"], ["max_steps=60", "save_steps=4"], 3, tmp_path, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_twenty_kills(seed: int, tmp_path: Path) -> None:
    compare_with_killed(["bandit.py"], ["max_steps=400", "save_steps=5"], 20, tmp_path, seed)


@pytest.mark.slow
def test_twenty_kills_of_grpo(tmp_path: Path) -> None:
    compare_with_killed(["tiny_llm.py", "grpo"], ["max_steps=120", "save_steps=3"], 20, tmp_path, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["kill", "tear", "full"])
def test_a_save_in_training_that_dies_at_any_file_operation(fault: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAMS / "faults.py", "trainer", fault, tmp_path],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["failures"] == []
    assert report["tried"] == report["operations"] >= (4 if fault == "tear" else 30)


def two_processes(folder: Path, *options: str) -> list[str]:
    """What the two processes printed: rank, digest, dropped updates."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "ddp.py", str(folder), *options]
    # accelerate needs to be told to let processes without a GPU talk to each other
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=PROGRAMS,
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
    )
    assert done.returncode == 0, done.stderr
    return sorted(line for line in done.stdout.replace("digest", "\ndigest").splitlines() if line.startswith("digest "))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["two=1", "num_tasks=24", "gradient_accumulation_steps=2", "per_device_train_batch_size=2"],
        ["bad=5", "num_tasks=24", "gradient_accumulation_steps=2", "per_device_train_batch_size=2"],
    ],
)
def test_two_processes_agree_and_resume_exactly(options: list[str], tmp_path: Path) -> None:
    """Two learners, whose gradients we average ourselves; and a loss that is NaN on one process only."""
    alone = two_processes(tmp_path / "alone", *options)
    assert alone[0].split()[2:] == alone[1].split()[2:], "both processes hold the same weights and dropped the same"
    assert alone[0].split()[3] == ("1" if options[0].startswith("bad") else "0")
    for step in (4, 7):
        assert two_processes(tmp_path / "resumed", f"stop={step}", *options) == []
    assert two_processes(tmp_path / "resumed", *options) == alone
    assert logged(tmp_path / "resumed") == logged(tmp_path / "alone")
    assert (tmp_path / "resumed" / "trials.jsonl").read_bytes() == (tmp_path / "alone" / "trials.jsonl").read_bytes()
