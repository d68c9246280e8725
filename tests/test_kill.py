"""Runs killed with `kill -9` and started again until done end exactly as the run that was left alone.

Real processes, killed at random moments of their training; and, one level deeper, one save that dies at each of its
file operations in turn (tests/test_checkpoint.py has the same for a bare save).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent / "programs"))

from compare import assert_same_files

from mrt.training.checkpoint import newest_checkpoint

PROGRAMS = Path(__file__).parent / "programs"


def report(*command: object) -> dict[str, Any]:
    """The JSON line that a program ends with."""
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, timeout=3600, cwd=PROGRAMS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_kills_change_nothing(tmp_path: Path, how: str, kills: int, seed: int, *program: str) -> None:
    found = report("kills.py", how, kills, seed, tmp_path, *program)
    assert found["struck"] >= 0.8 * kills, f"the job is too short: {found}"
    assert found["killed"] == found["alone"], found
    assert_same_files(tmp_path / "alone", tmp_path / "killed")
    assert newest_checkpoint(tmp_path / "killed") is not None


def test_three_kills(tmp_path: Path) -> None:
    assert_kills_change_nothing(tmp_path, "fork", 3, 0, "bandit.py", "max_steps=160", "save_steps=4")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1, 2])
def test_twenty_kills(seed: int, tmp_path: Path) -> None:
    assert_kills_change_nothing(tmp_path, "spawn", 20, seed, "bandit.py", "max_steps=400", "save_steps=5")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills_of_grpo(tmp_path: Path) -> None:
    assert_kills_change_nothing(tmp_path, "spawn", 20, 3, "tiny_llm.py", "grpo", "max_steps=120", "save_steps=3")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", ["kill", "tear", "full", "readonly"])
def test_a_save_in_training_that_dies_at_any_file_operation(fault: str, tmp_path: Path) -> None:
    found = report("faults.py", "trainer", fault, tmp_path)
    assert found["failures"] == []
    assert found["tried"] == found["operations"] >= (4 if fault == "tear" else 30)


def two_processes(folder: Path, *options: str) -> list[str]:
    """What the two processes printed: rank, digest, dropped updates."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "ddp.py", str(folder), *options]
    # accelerate needs to be told to let processes without a GPU talk to each other
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=600,
        cwd=PROGRAMS,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    return sorted(line for line in done.stdout.replace("digest", "\ndigest").splitlines() if line.startswith("digest "))


@pytest.mark.slow
@pytest.mark.timeout(3600)
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
    assert_same_files(tmp_path / "alone", tmp_path / "resumed")
