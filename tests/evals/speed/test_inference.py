"""The speed program of the inference systems runs, and prints what others read. No figure is judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_it_runs(root: Path) -> None:
    command = [sys.executable, "-m", "evals.speed.inference", "--smoke", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout)
    for name, target in (("pearl_over_oyster", 1.5), ("varibad_over_published", 10)):
        one = result[name]
        assert one["target_at_least"] == target
        for clock, ratio in (("wall", one["ratio"]), ("cpu", one["ratio_by_cpu"])):
            assert one["per_second"][clock] > 0
            assert ratio == pytest.approx(one["per_second"][clock] / one["theirs_per_second"], rel=1e-3)
    assert set(result["machine"]) >= {"processor", "cores", "torch", "commit"}
