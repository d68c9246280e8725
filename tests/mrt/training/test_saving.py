"""What a checkpoint holds, what a resume insists on, and saves that fail."""

from __future__ import annotations

import errno
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrt.errors import CheckpointError, ConfigError
from mrt.training import checkpoint as ckpt
from tests.support import ROOT, bandit, replaying
from tests.support.compare import assert_same_files, interrupted, logged

pytestmark = pytest.mark.training


@pytest.mark.parametrize("name", ["optimizer.safetensors", "scheduler.json", "rng_state.json", "trial_state.json"])
def test_a_missing_state_is_an_error_and_never_a_silent_restart(name: str, tmp_path: Path) -> None:
    """transformers itself returns silently when the optimiser's file is not there."""
    bandit.build(tmp_path, max_steps=4).train()
    folder = tmp_path / "checkpoint-3"
    (folder / name).unlink()
    facts = ckpt.read_manifest(folder)
    shutil.rmtree(tmp_path / "checkpoint-4")
    ckpt.write_manifest(folder, **{k: v for k, v in facts.items() if k not in ("files", "digest", "schema_version")})
    assert ckpt.verify(folder) == [], "whole as far as the manifest knows"
    with pytest.raises(CheckpointError, match=name):
        bandit.build(tmp_path, max_steps=4).train()


def test_another_number_of_processes_or_other_states_are_refused(tmp_path: Path) -> None:
    bandit.build(tmp_path, max_steps=3).train()
    other = bandit.build(tmp_path, max_steps=6)
    other.register_state("replay", (dict, print))
    with pytest.raises(
        CheckpointError, match=r"holds the states \['cost'\], this trainer registers \['cost', 'replay'\]"
    ):
        other.train()
    folder = tmp_path / "checkpoint-3"
    facts = {k: v for k, v in ckpt.read_manifest(folder).items() if k not in ("files", "digest", "schema_version")}
    ckpt.write_manifest(folder, **facts | {"processes": 4})
    with pytest.raises(CheckpointError, match=r"written by 4 process\(es\), this run has 1"):
        bandit.build(tmp_path, max_steps=6).train()


class Counter:
    def __init__(self) -> None:
        self.pools = {"a": [torch.zeros(2)], 3: (None, 1.5)}

    def state_dict(self) -> dict[str, Any]:
        return {"pools": self.pools}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.pools = state["pools"]


def test_registered_states_are_there_before_the_first_batch(tmp_path: Path) -> None:
    def build() -> Any:
        trainer = bandit.build(tmp_path, max_steps=3)
        trainer.extras = {
            "counter": Counter(),
            "torch": torch.Generator().manual_seed(1),
            "python": random.Random(1),
            "numpy": np.random.default_rng(1),
        }
        for name, obj in trainer.extras.items():
            trainer.register_state(name, obj)
        trainer.box = [0]
        trainer.register_state("pair", (lambda: list(trainer.box), lambda value: trainer.box.__setitem__(0, value[0])))
        return trainer

    def draws(extras: dict[str, Any]) -> list[float]:
        return [torch.rand(1, generator=extras["torch"]).item(), extras["python"].random(), extras["numpy"].random()]

    first = build()
    draws(first.extras)
    first.extras["counter"].pools["a"][0] += 5
    first.box[0] = 7
    first.train()
    expected = draws(first.extras)
    second = build()
    second.train()
    assert draws(second.extras) == expected
    assert second.box == [7]
    assert second.extras["counter"].pools["a"][0].tolist() == [5, 5]
    assert second.extras["counter"].pools[3] == (None, 1.5)
    with pytest.raises(ConfigError, match="'torch' is registered already"):
        second.register_state("torch", Counter())
    with pytest.raises(ConfigError, match=r"state 'list' is a list: give it state_dict\(\)"):
        second.register_state("list", [])


def test_no_pickle_is_written_anywhere(tmp_path: Path) -> None:
    trainer = bandit.build(tmp_path, max_steps=3, hub_token="hf_" + "x" * 30)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".jsonl", ".safetensors"}
    for folder in (tmp_path / "model", tmp_path / "checkpoint-3"):
        arguments = json.loads((folder / "training_args.json").read_text())
        assert arguments["max_steps"] == 3
        assert "hf_x" not in str(arguments)


def test_a_save_that_fails_is_told_and_leaves_the_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    trainer = bandit.build(tmp_path)
    monkeypatch.setattr(trainer, "_save_rng_state", lambda folder: refuse() if folder.endswith("-6") else None)
    with pytest.raises(CheckpointError, match=r"checkpoint-6 could not be saved .*Read-only file system"):
        trainer.train()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["checkpoint-3"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**30, 2**30, 2**20))
    with pytest.raises(CheckpointError, match=r"needs about 3\d MiB, but .* has 1 MiB free"):
        bandit.build(tmp_path / "full").train()


def test_the_best_checkpoint_is_never_a_staging_path(tmp_path: Path) -> None:
    from tests.support import tiny_llm

    options = {"eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": True, "max_steps": 9}
    trainer = tiny_llm.sft(tmp_path, metric_for_best_model="loss", **options)
    trainer.train()
    best = tmp_path / "checkpoint-9"
    assert trainer.state.best_model_checkpoint == str(best)
    assert json.loads((best / "trainer_state.json").read_text())["best_model_checkpoint"] == str(best)
    assert any("eval_mean_token_accuracy" in row for row in logged(tmp_path))


def test_what_is_pushed_is_the_finished_folder(tmp_path: Path) -> None:
    pushed = []

    class Pushing(bandit.BanditTrainer):
        def _push_from_checkpoint(self, folder: str) -> None:
            pushed.append((Path(folder).name, ckpt.verify(Path(folder))))

    trainer = bandit.build(tmp_path, Pushing, max_steps=4)
    trainer.args.push_to_hub = True
    trainer.train()
    assert pushed == [("checkpoint-3", []), ("checkpoint-4", [])]


def tear(path: Path, rng: random.Random) -> str:
    """Flips one byte of a file, or cuts its tail, at a random place; says what was done."""
    raw = path.read_bytes()
    at = rng.randrange(len(raw))
    if rng.random() < 0.5:
        path.write_bytes(raw[:at])
        return f"{path.name} cut at {at}"
    path.write_bytes(raw[:at] + bytes([raw[at] ^ rng.randrange(1, 256)]) + raw[at + 1 :])
    return f"{path.name} flipped at {at}"


@pytest.mark.parametrize("places", [60, pytest.param(500, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_torn_checkpoints_are_all_found_and_the_previous_one_is_used(places: int, tmp_path: Path) -> None:
    """A trainer's own checkpoints; every tenth time it trains on as well, from the one before."""
    root, pristine = tmp_path / "run", tmp_path / "pristine"
    bandit.build(root, max_steps=6).train()
    shutil.copytree(root / "checkpoint-6", pristine)
    rng = random.Random(places)
    files = [path.relative_to(pristine) for path in sorted(pristine.rglob("*")) if path.is_file()]
    asking, digests = bandit.build(root), set()
    for number in range(places):
        folder = root / "checkpoint-6"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(pristine, folder)
        done = tear(folder / rng.choice(files), rng)
        assert ckpt.verify(folder), done
        assert ckpt.newest_checkpoint(root) == root / "checkpoint-3", done
        with pytest.raises(CheckpointError, match="torn"):
            asking.train(resume_from_checkpoint=str(folder))
        if number % (places // 6) == 0:
            copy = tmp_path / f"resumed-{number}"
            shutil.copytree(root, copy)
            resumed = bandit.build(copy, max_steps=7)
            resumed.train()
            assert resumed._session_start == 3, done
            digests.add(bandit.digest(resumed))
    alone = bandit.build(tmp_path / "alone", max_steps=7)
    alone.train()
    assert digests == {bandit.digest(alone)}, "however it was torn, the run ends as one left alone"


@pytest.mark.slow
def test_a_full_disk_ends_the_command_with_an_error_and_keeps_what_there_was(tmp_path: Path) -> None:
    """The kernel refuses files above a limit in the second save (RLIMIT_FSIZE): a real error, not one of ours."""
    command = [sys.executable, "-m", "tests.support.bandit", str(tmp_path), "write_trials=0"]
    assert subprocess.run([*command, "max_steps=3"], cwd=ROOT, capture_output=True).returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoint-3").iterdir()}
    limited = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192));"
        f"sys.argv = {command[2:]!r} + ['max_steps=6']; runpy.run_module(sys.argv[0], run_name='__main__')"
    )
    failed = subprocess.run([sys.executable, "-c", limited], cwd=ROOT, capture_output=True, text=True)
    assert failed.returncode != 0
    assert "checkpoint-6 could not be saved" in failed.stderr
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "checkpoint-3").iterdir()}
    assert ckpt.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
    assert subprocess.run([*command, "max_steps=6"], cwd=ROOT, capture_output=True).returncode == 0, (
        "and goes on with room again"
    )
    assert ckpt.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-6"


def test_a_run_with_a_replay_resumes_exactly_and_its_checkpoints_share_shards(tmp_path: Path) -> None:
    alone = replaying.build(tmp_path / "alone")
    alone.train()
    resumed = interrupted(lambda: replaying.build(tmp_path / "resumed"), [4, 8])
    assert replaying.digest(resumed) == replaying.digest(alone)
    assert_same_files(tmp_path / "alone", tmp_path / "resumed")
    for folder in ("alone", "resumed"):
        shards = {
            p.name: p for n in (9, 12) for p in (tmp_path / folder / f"checkpoint-{n}").glob("replay/*.safetensors")
        }
        links = sorted(path.stat().st_nlink for path in shards.values())
        assert [links[0], links[-1]] == [1, 2], "some are shared; what no kept checkpoint needs is gone"
        assert ckpt.verify(tmp_path / folder / "checkpoint-12") == []


def test_a_damaged_shard_is_told_by_name(tmp_path: Path) -> None:
    replaying.build(tmp_path, max_steps=3).train()
    (shard,) = (tmp_path / "checkpoint-3" / "replay").glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=f"replay/{shard.name} was altered"):
        replaying.build(tmp_path, max_steps=6).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_the_room_for_a_replay_is_asked_for_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(ckpt, "preflight", lambda root, needed: asked.append(needed))
    plain = bandit.build(tmp_path / "plain", max_steps=3)
    plain.train()
    with_replay = replaying.build(tmp_path / "replay", max_steps=3)
    with_replay.train()
    stored = with_replay.replay.unsaved_bytes(None)
    assert 0.5 * stored < asked[1] - asked[0] < 2 * stored
