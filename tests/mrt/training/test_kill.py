"""Runs killed with `kill -9` and started again until done end exactly as the run that was left alone.

Real processes, killed at random moments of their training; and, one level deeper, one save that dies at each of its
file operations in turn (test_checkpoint.py has the same for a bare save).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mrt.training import checkpoint as ckpt
from mrt.training.checkpoint import newest_checkpoint
from tests.support.compare import assert_same_files
from tests.support.processes import run_module

pytestmark = pytest.mark.training


def report(module: str, *arguments: object) -> dict[str, Any]:
    """The JSON line that a program ends with."""
    return json.loads(run_module(module, *arguments).stdout.splitlines()[-1])


def assert_kills_change_nothing(tmp_path: Path, how: str, kills: int, seed: int, *program: str) -> None:
    found = report("tests.programs.kills", how, kills, seed, tmp_path, *program)
    assert found["struck"] >= 0.8 * kills, f"the job is too short: {found}"
    assert found["killed"] == found["alone"], found
    assert_same_files(tmp_path / "alone", tmp_path / "killed")
    assert newest_checkpoint(tmp_path / "killed") is not None


def test_three_kills(tmp_path: Path) -> None:
    assert_kills_change_nothing(tmp_path, "fork", 3, 0, "tests.support.bandit", "max_steps=160", "save_steps=4")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1, 2])
def test_twenty_kills(seed: int, tmp_path: Path) -> None:
    assert_kills_change_nothing(tmp_path, "spawn", 20, seed, "tests.support.bandit", "max_steps=400", "save_steps=5")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills_of_grpo(tmp_path: Path) -> None:
    assert_kills_change_nothing(
        tmp_path, "spawn", 20, 3, "tests.support.tiny_llm", "grpo", "max_steps=120", "save_steps=3"
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills_with_a_replay(tmp_path: Path) -> None:
    assert_kills_change_nothing(tmp_path, "spawn", 20, 4, "tests.support.replaying", "max_steps=400", "save_steps=5")
    for folder in tmp_path.glob("*/checkpoint-*"):
        assert ckpt.verify(folder) == []
        assert len(list(folder.glob("replay/*.safetensors"))) > 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("what", ["trainer", "replay"])
@pytest.mark.parametrize("fault", ["kill", "tear", "full", "readonly"])
def test_a_save_in_training_that_dies_at_any_file_operation(fault: str, what: str, tmp_path: Path) -> None:
    found = report("tests.programs.faults", what, fault, tmp_path)
    assert found["failures"] == []
    assert found["tried"] == found["operations"] >= (4 if fault == "tear" else 30)


def two_processes(folder: Path, *options: str) -> list[str]:
    """What the two processes printed: rank, digest, dropped updates."""
    done = run_module("tests.programs.ddp", folder, *options, processes=2, timeout=300)
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
