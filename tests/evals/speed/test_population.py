"""The speed program of populations runs, with Ray where it is installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.training, pytest.mark.slow]


def test_smoke(root: Path) -> None:
    command = [sys.executable, "-m", "evals.speed.population", "--smoke", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout)
    assert result["local_over_one_by_one"]["target_at_most"] == 0.55
    assert result["local_over_one_by_one"]["ratio"] > 0
    other = result["ray_over_local"]
    assert "pip install" in other["skipped"] if "skipped" in other else other["ratio"] > 0
