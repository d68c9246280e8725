"""The doctor's findings: versions against ranges, extras, and a recipe."""

from pathlib import Path

import pytest

from mrt.cli.doctor import FAILED, GOOD, NOTE, Check, _package, examine, render


def test_versions_against_ranges() -> None:
    assert _package("numpy", ">=2").status == GOOD
    old = _package("numpy", "<2")
    assert (old.status, old.cure) == (FAILED, "pip install 'numpy<2'")
    assert _package("torch", ">=2.13,<2.14").status == GOOD  # also a build with a local suffix
    assert _package("no-such-package", ">=1").found == "not installed"


def test_this_machine() -> None:
    checks = {check.name: check for check in examine()}
    assert {"python", "mrt", "torch", "trl", "threads", "memory", "disk", "write access", "network"} <= set(checks)
    assert all(check.status in (GOOD, NOTE, FAILED) for check in checks.values())
    assert checks["threads"].found.endswith("OMP_NUM_THREADS=1")
    assert "HF_HUB_OFFLINE" in checks["network"].found


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert {c.name: c.status for c in examine()}["write access"] == GOOD
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("trainer: tests.support.fake_trainers:FakeTrainer\nmodel: ./nowhere\nproblems: {name: countdwn}")
    checks = {check.name: check for check in examine(str(path), ["max_steps=2"], allow_code=True)}
    assert checks["recipe"].status == GOOD
    assert checks["model"].status == FAILED
    assert "countdown" in checks["problems"].found
    assert checks["problems"].status == FAILED
    (wrong,) = [
        c for c in examine(str(path), ["max_step=2"], allow_code=True) if c.status == FAILED and c.name == "recipe"
    ]
    assert "max_steps" in wrong.found


def test_render() -> None:
    text = render([Check("a", GOOD, "x"), Check("bb", FAILED, "y", "mend it"), Check("c", GOOD, "z", "no cure needed")])
    assert text.splitlines() == [
        "ok      a   x",
        "failed  bb  y",
        "            -> mend it",
        "ok      c   z",
        "",
        "1 of 3 checks failed",
    ]
