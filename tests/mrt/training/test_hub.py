"""What is pushed to a hub, with a stand-in for the hub."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mrt.errors import ConfigError
from mrt.training.hub import files_to_push, push


class FakeHub:
    def __init__(self, existing: dict[str, bool] | None = None) -> None:
        self.private = dict(existing or {})  # {repository: whether it is private}
        self.uploads: list[dict[str, Any]] = []

    def create_repo(self, repo: str, token: str | None, private: bool, exist_ok: bool) -> Any:
        name = repo if "/" in repo else f"me/{repo}"
        self.private.setdefault(name, private)
        return SimpleNamespace(repo_id=name)

    def repo_info(self, repo: str, token: str | None) -> Any:
        return SimpleNamespace(private=self.private[repo])

    def upload_folder(self, **facts: Any) -> None:
        self.uploads.append(facts)


def run_directory(folder: Path, adapter: bool) -> Path:
    names = ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "README.md"]
    names += ["adapter_model.safetensors", "adapter_config.json"] if adapter else []
    names += ["metrics.jsonl", "trials.jsonl", "run.json", "training_args.json", "optimizer.safetensors", ".env"]
    for name in names:
        (folder / name).write_text("{}")
    (folder / "checkpoint-3").mkdir()
    return folder


def test_of_an_adapter_the_adapter_alone(tmp_path: Path) -> None:
    hub = FakeHub()
    assert push(run_directory(tmp_path, adapter=True), "me/mine", token="t", api=hub) == "me/mine"
    (upload,) = hub.uploads
    expected = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert upload["allow_patterns"] == [*expected, "tokenizer.json", "tokenizer_config.json"]
    assert (upload["repo_id"], upload["folder_path"], upload["token"]) == ("me/mine", str(tmp_path), "t")
    assert hub.private == {"me/mine": True}, "private unless asked otherwise"


def test_of_a_model_neither_logs_nor_arguments(tmp_path: Path) -> None:
    names = files_to_push(run_directory(tmp_path, adapter=False))
    assert names == ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    hub = FakeHub()
    push(tmp_path, "mine", private=False, api=hub)
    assert hub.private == {"me/mine": False}


def test_what_is_refused(tmp_path: Path) -> None:
    hub = FakeHub({"me/open": False})
    folder = run_directory(tmp_path, adapter=True)
    with pytest.raises(ConfigError, match="already exists and is public"):
        push(folder, "me/open", api=hub)
    for name in ("", "a/b/c", "../x", "a b", "a/"):
        with pytest.raises(ConfigError, match="not the name of a repository"):
            push(folder, name, api=hub)
    (folder / "README.md").write_text("token: hf_" + "a1B2" * 8)
    with pytest.raises(ConfigError, match=r"README.md holds what looks like a credential"):
        push(folder, "me/mine", api=hub)
    with pytest.raises(ConfigError, match="no weights to push"):
        push(folder / "checkpoint-3", "me/mine", api=hub)
    assert hub.uploads == []
