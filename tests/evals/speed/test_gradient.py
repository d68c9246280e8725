"""The speed program of the gradient systems runs, and prints what others read. No figure is judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.training


def test_it_runs(root: Path) -> None:
    command = [sys.executable, "-m", "evals.speed.gradient", "--smoke", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout)
    ways, memory = result["vmap_over_loop"], result["second_over_first"]
    assert ways["target_at_least"] == 5
    assert len(ways["cases"]) == 4
    assert ways["ratio"] == min(case["ratio"] for case in ways["cases"].values())
    for case in ways["cases"].values():
        assert case["loop_seconds"] > 0
        assert case["batched_seconds"] > 0
    for case in memory["cases"].values():
        assert case["second_bytes"] > case["first_bytes"] > 0
    assert set(result["machine"]) >= {"processor", "cores", "torch", "commit"}
    bare = result["trainer_over_bare"]
    assert bare["ratio"] > 0
    assert bare["target_at_most"] == 1.25
    assert "tiny sizes" in result["jax_over_ours"]["skipped"]
