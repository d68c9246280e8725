"""Checkpoints on disk: whole or not there, whatever is done to the files and wherever the process dies."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mrt.errors import CheckpointError
from mrt.training import checkpoint as ckpt
from mrt.training.codec import save_tree
from tests.support.processes import run_module

pytestmark = pytest.mark.training


def make(root: Path, step: int, value: float = 0.0) -> Path:
    """A small whole checkpoint-STEP."""
    staging = root / f".staging-{step}" / f"checkpoint-{step}"
    save_tree(staging, "optimizer", {"x": torch.full((40,), value), "lr": 0.1})
    save_tree(staging / "adapter", "weights", {"w": torch.full((5,), value)})
    ckpt.finalise(staging, root / f"checkpoint-{step}", step=step)
    staging.parent.rmdir()
    return root / f"checkpoint-{step}"


def forge(folder: Path, content: Any) -> None:
    """A manifest with a digest that fits its content, as an attacker would write it."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({**content, "digest": digest}, sort_keys=True, indent=1) + "\n")


def test_manifest_lists_every_file_with_hash_and_size(tmp_path: Path) -> None:
    folder = make(tmp_path, 5)
    facts = ckpt.read_manifest(folder)
    assert facts["step"] == 5
    assert facts["schema_version"] == 1
    names = ["adapter/weights.json", "adapter/weights.safetensors", "optimizer.json", "optimizer.safetensors"]
    assert sorted(facts["files"]) == names
    for name, entry in facts["files"].items():
        raw = (folder / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw)}
    assert ckpt.verify(folder) == []


def test_a_thousand_altered_bytes_and_cuts_are_all_noticed(tmp_path: Path) -> None:
    rng = random.Random(0)
    folder = make(tmp_path, 1)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for _ in range(1000):
        path = rng.choice(files)
        raw = path.read_bytes()
        at = rng.randrange(len(raw))
        if rng.random() < 0.8:
            path.write_bytes(raw[:at] + bytes([raw[at] ^ rng.randrange(1, 256)]) + raw[at + 1 :])
        else:
            path.write_bytes(raw[:at])
        assert ckpt.verify(folder), f"{path.name} at byte {at}"
        path.write_bytes(raw)
    assert ckpt.verify(folder) == []


def test_the_newest_whole_one_is_found_and_a_torn_one_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert ckpt.newest_checkpoint(tmp_path / "nowhere") is None
    assert ckpt.newest_checkpoint(tmp_path) is None
    for step in (8, 20, 100, 9):
        make(tmp_path, step)
    (tmp_path / "checkpoint-300").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-200").symlink_to(tmp_path / "checkpoint-20", target_is_directory=True)
    (tmp_path / "checkpoint-100" / "optimizer.safetensors").write_bytes(b"")
    assert ckpt.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-20"
    warned = [record.getMessage() for record in caplog.records]
    assert [f"checkpoint-{n}, " in text for n, text in zip((300, 200, 100), warned, strict=True)] == [True] * 3
    assert "optimizer.safetensors has 0 bytes" in warned[2]
    assert "no manifest.json" in warned[0]


@pytest.mark.parametrize(
    "evil", ["link", "link to folder", "fifo", "extra", "dots", "absolute", "backslash", "missing"]
)
def test_what_does_not_belong_is_refused(evil: str, tmp_path: Path) -> None:
    folder = make(tmp_path, 1)
    content = {key: value for key, value in ckpt.read_manifest(folder).items() if key != "digest"}
    outside = tmp_path / "outside"
    outside.write_text("secret")
    if evil == "link":
        (folder / "model.bin").symlink_to(outside)
    elif evil == "link to folder":
        shutil.rmtree(folder / "adapter")
        (folder / "adapter").symlink_to(tmp_path, target_is_directory=True)
    elif evil == "fifo":
        os.mkfifo(folder / "pipe")  # reading it would hang for ever
    elif evil == "extra":
        (folder / "training_args.bin").write_bytes(b"cos\nsystem\n")
    else:
        name = {"dots": "../outside", "absolute": str(outside), "backslash": "..\\outside", "missing": "gone"}[evil]
        content["files"][name] = {"sha256": hashlib.sha256(b"secret").hexdigest(), "size": 6}
        forge(folder, content)
    assert len(ckpt.verify(folder)) >= 1
    assert ckpt.newest_checkpoint(tmp_path) is None
    if evil in ("link", "link to folder", "fifo"):
        with pytest.raises(CheckpointError, match="not a plain file"):
            ckpt.write_manifest(folder)


def test_forged_manifests_are_problems_never_tracebacks(tmp_path: Path) -> None:
    folder = make(tmp_path, 1)
    rng = random.Random(1)

    def junk(depth: int = 0) -> Any:
        simple = [None, True, -1, 2**70, 0.5, "", "manifest.json", "optimizer.json", "../x", "\x00", []]
        if depth > 2 or rng.random() < 0.5:
            return rng.choice(simple)
        if rng.random() < 0.5:
            return [junk(depth + 1) for _ in range(3)]
        return {
            rng.choice(["sha256", "size", "optimizer.json", "..", "/etc/passwd"]): junk(depth + 1) for _ in range(3)
        }

    for _ in range(300):
        forge(folder, {"schema_version": rng.choice([1, 2, None]), "files": junk(), "step": junk()})
        assert ckpt.verify(folder)
    for raw in (b"", b"[]", b"null", b"\xff", b'{"schema_version": 1}', b"[" * 100_000):
        (folder / "manifest.json").write_bytes(raw)
        assert ckpt.verify(folder)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path, 1)
    content = {key: value for key, value in ckpt.read_manifest(folder).items() if key != "digest"}
    forge(folder, content)
    assert ckpt.verify(folder) == [], "the forger spells manifests as we do"
    forge(folder, {**content, "schema_version": 2})
    assert "schema version 2" in ckpt.verify(folder)[0]


def test_an_existing_target_gives_way_only_to_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 3, value=1.0)
    old = ckpt.read_manifest(tmp_path / "checkpoint-3")["files"]
    rename, calls = os.rename, []

    def dies_second(source: Any, target: Any) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt  # between moving the old one aside and giving its name to the new one
        rename(source, target)

    monkeypatch.setattr(os, "rename", dies_second)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, 3, value=2.0)
    monkeypatch.undo()
    assert not (tmp_path / "checkpoint-3").exists()
    assert ckpt.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-3", "found under its own name again"
    assert ckpt.read_manifest(tmp_path / "checkpoint-3")["files"] == old
    shutil.rmtree(tmp_path / ".staging-3")
    make(tmp_path, 3, value=2.0)
    assert ckpt.read_manifest(tmp_path / "checkpoint-3")["files"] != old
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def test_prune_keeps_two_the_best_and_what_is_not_ours(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        make(tmp_path, step)
    (tmp_path / "checkpoint-0").mkdir()
    (tmp_path / "checkpoint-0" / "optimizer.pt").write_bytes(b"")
    ckpt.prune(tmp_path, None)
    assert len(ckpt.list_checkpoints(tmp_path)) == 6
    ckpt.prune(tmp_path, 1, protect="/moved/since/checkpoint-2")
    assert [path.name for path in ckpt.list_checkpoints(tmp_path)] == [f"checkpoint-{n}" for n in (0, 2, 4, 5)]


def test_sweep_and_set_aside(tmp_path: Path) -> None:
    make(tmp_path, 1)
    make(tmp_path, 2)
    for name in (".staging-7", ".trash-1", ".replaced-2"):
        shutil.copytree(tmp_path / "checkpoint-1", tmp_path / name)
    ckpt.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]
    assert ckpt.set_aside(tmp_path, []) is None
    assert ckpt.set_aside(tmp_path, [tmp_path / "checkpoint-1"]) == tmp_path / "earlier-1"
    assert ckpt.set_aside(tmp_path, [tmp_path / "checkpoint-2"]) == tmp_path / "earlier-2"
    assert ckpt.verify(tmp_path / "earlier-1" / "checkpoint-1") == []


def test_preflight_says_what_is_needed_and_what_is_there(tmp_path: Path) -> None:
    ckpt.preflight(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"needs about 1099511627776 MiB, but .* MiB free: make room"):
        ckpt.preflight(tmp_path, 2**60)


@pytest.mark.parametrize("fault", ["kill", "tear", "full", "readonly"])
def test_a_save_that_dies_at_any_file_operation_loses_nothing(fault: str, tmp_path: Path) -> None:
    """Kill -9, a torn file and then kill -9, or a full disk, at each operation in turn of a save that also prunes."""
    done = run_module("tests.programs.faults", "direct", fault, tmp_path, timeout=300)
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["operations"] >= (4 if fault == "tear" else 25), report
    assert report["failures"] == []
    assert report["kept_old"] >= 1, "some faults strike before the rename"
    if fault != "tear":
        assert report["kept_new"] >= 1, "and some behind it"
