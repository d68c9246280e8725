"""The version is known whether the package is installed or not, under the name that pip knows it by."""

import tomllib
from importlib import metadata
from typing import NoReturn

import pytest

import mrt
from mrt import version
from mrt.cli.doctor import GOOD, NOTE, examine
from tests.support import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(metadata, "version", lambda name: asked.append(name) or "9.9")
    assert (version.version(), mrt.__version__) == ("9.9", "9.9")
    assert set(asked) == {PROJECT["name"]} == {"mrt-rl"}


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> NoReturn:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert version.version() == PROJECT["version"]
    monkeypatch.setattr(version, "__file__", "/nowhere/mrt/version.py")
    assert version.version() == "unknown"


def test_doctor_reads_the_checkout_where_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> NoReturn:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", missing)
    checks = {check.name: check for check in examine()}
    assert checks["mrt"].status == NOTE
    assert "make install" in checks["mrt"].cure
    assert {"torch", "trl"} <= set(checks)
    assert {f"[{extra}]" for extra in PROJECT["optional-dependencies"]} <= set(checks)
    assert checks["numpy"].status == GOOD
    assert "pip install 'mrt-rl[vllm]'" in checks["[vllm]"].cure


def test_extras() -> None:
    extras = PROJECT["optional-dependencies"]
    assert any(line.startswith("wandb") for line in extras["track"])
    assert version.install_command("track") == "pip install 'mrt-rl[track]'"
    assert version.install_command() == "pip install mrt-rl"
