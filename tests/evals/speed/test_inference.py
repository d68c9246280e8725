"""The speed program of the inference systems runs, and prints what others read. No figure is judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.training


def test_it_runs(root: Path) -> None:
    command = [sys.executable, "-m", "evals.speed.inference", "--smoke", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout)
    pearl = result["pearl_over_oyster"]
    assert pearl["target_at_least"] == 1.5
    assert pearl["ratio"] == pytest.approx(pearl["steps_per_second"]["wall"] / pearl["oyster_per_second"], rel=1e-3)
    assert pearl["steps_per_second"]["cpu"] > 0
    assert set(result["machine"]) >= {"processor", "cores", "torch", "commit"}
