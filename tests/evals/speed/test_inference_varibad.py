"""The speed program of VariBAD runs, and prints what others read. No figure is judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.training


def test_it_runs(root: Path) -> None:
    command = [sys.executable, "-m", "evals.speed.inference_varibad", "--smoke", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    one = json.loads(done.stdout)["varibad_over_published"]
    assert one["target_at_least"] == 10
    for clock, ratio in (("wall", one["ratio"]), ("cpu", one["ratio_by_cpu"])):
        assert one["frames_per_second"][clock] > 0
        assert ratio == pytest.approx(one["frames_per_second"][clock] / one["published_per_second"], rel=1e-3)
