"""Transfer on the point robot: measures by hand, and one tiny run of every arm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evals.control import transfer
from evals.control.transfer import ARMS, SCRATCH, TOLD, digest, main, measures, run, table
from mrt.runs.rundir import write_json


def test_measures_by_hand() -> None:
    """Above scratch's start scratch gains 0, 2, 4 and ours 2, 3, 5: areas 4 and 6.5 by trapezoids."""
    scratch, ours = [-10.0, -8.0, -6.0], [-8.0, -7.0, -5.0]
    found = measures(ours, scratch)
    assert found["jumpstart"] == 2.0
    assert found["asymptote"] == -5.0
    areas = (0 / 2 + 2 + 4 / 2, 2 / 2 + 3 + 5 / 2)
    assert found["transfer ratio"] == pytest.approx(areas[1] / areas[0] - 1)
    assert measures(scratch, scratch) == {"jumpstart": 0.0, "asymptote": -6.0, "transfer ratio": 0.0}


@pytest.mark.slow
def test_a_tiny_run_of_every_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "STARTS", 10)
    result = run(1, targets=1, updates=2, steps=1)
    assert set(result["curves"]) == set(ARMS)
    assert result["floor"] < result["ceiling"] < 0
    for arm, curves in result["curves"].items():
        assert [len(curve) for curve in curves] == [3], arm
    assert all(len(set(curve)) == 1 for curve in result["curves"][TOLD]), "no step on the new task"
    assert result["curves"][SCRATCH][0][0] != result["curves"]["source"][0][0]
    assert set(result["reached"]) == {"4", "0"}
    assert result["env_steps"][0] == 0 < result["env_steps"][1] <= result["env_steps"][2]
    assert "| told |" in table([result, result])


def test_what_is_stored_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cached", "--store", str(tmp_path), "--seeds", "1"]) == 2
    assert "nothing is stored" in capsys.readouterr().err
    curves = {arm: [[-10.0 + i, -5.0], [-9.0 + i, -5.0]] for i, arm in enumerate(ARMS)}
    one: dict[str, Any] = {"seed": 1, "digest": digest(1), "floor": -18.0, "ceiling": -4.0, "env_steps": [0, 100]}
    write_json(tmp_path / "seed1.json", one | {"curves": curves, "reached": {"4": 0.9, "0": 0.1}})
    assert main(["--store", str(tmp_path), "--seeds", "1"]) == 0
    shown = capsys.readouterr().out
    assert "| scratch | -9.50 | -5.00 | +0.00" in shown
    assert "- 4 goals from hindsight for every real one: 0.900 (seeds [0.9])" in shown


def test_the_stored_study_is_of_these_settings() -> None:
    for path in sorted(transfer.STORE.glob("seed*.json")):
        stored = json.loads(path.read_text(encoding="utf-8"))
        assert stored["digest"] == digest(stored["seed"]), path.name
