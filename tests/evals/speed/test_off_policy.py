"""The speed program of the off-policy agent runs, and prints what others read. No figure is judged here."""

import json

import pytest

from evals.speed import off_policy

pytestmark = pytest.mark.slow


def test_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert off_policy.main(["--smoke", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    for key, counted in (("updates_per_second", 2), ("frames_per_second", 2 * 2 * 2)):
        (case,) = result[key]["cases"].values()
        assert case["count"] == counted
        assert case[key] == pytest.approx(case["count"] / case["cpu_seconds"], rel=1e-3)
        assert case["ratio"] == pytest.approx(case[key] / case["amago"], rel=1e-3)
        assert result[key]["target_at_least"] == 2
    assert off_policy.main(["--smoke"]) == 0
    assert "target at least 2 times that" in capsys.readouterr().out
