"""Programs that are measured beside ours: found where they are named, skipped with a reason where they are not."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import pytest

from evals.speed.peers import Peer, in_turns, missing, peer_seconds, pinned, ratio_of

JAX = """
    def jit(function=None, **options):
        return function
    def block_until_ready(value):
        return value
"""
PROGRAM = """
    import sys, jax
    def it(count):
        return sum(range(count))
    it = jax.jit(it)
    for _ in range(int(sys.argv[1])):
        it(100_000)
    print("done")
"""


@pytest.fixture
def peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs, with packages of the names that they import."""
    for name, text in (("jax/__init__", JAX), ("jax/numpy", ""), ("optax", ""), ("one", PROGRAM)):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.setenv("MRT_PEERS", str(tmp_path))
    monkeypatch.setenv("MRT_PEERS_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_calls_are_timed(peers: Path) -> None:
    one = Peer("one.py", "6")
    assert missing(one) == ""
    seconds = peer_seconds(one)
    assert 0 < seconds < 1
    assert peer_seconds(Peer("one.py", "6", count=1000)) < seconds
    with pytest.raises(RuntimeError, match=r"one\.py"):
        peer_seconds(Peer("one.py", "many"))


def test_what_is_missing_is_said(peers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "other.py is not there" in missing(Peer("other.py", ""))
    (peers / "optax.py").write_text("raise ImportError")
    assert "jax and optax are not installed" in missing(Peer("one.py", ""))


def test_sides_run_in_turns_on_one_core() -> None:
    order, cores = [], []

    def side(name: str, seconds: float) -> float:
        order.append(name)
        cores.append(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
        return seconds

    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    found = in_turns({"a": lambda: side("a", 3.0), "b": lambda: side("b", 2.0)}, 2, "test")
    assert order == ["a", "b", "b", "a"]
    assert set(cores) == {1}
    if before:
        assert os.sched_getaffinity(0) == before
    assert ratio_of(found, "a", "b")["ratio"] == 1.5
    with pytest.raises(ZeroDivisionError), pinned():
        _ = 1 / 0
    if before:
        assert os.sched_getaffinity(0) == before
