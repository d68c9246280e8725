"""Pushing a model to a hub: weights or adapter, tokenizer and card, and nothing else of a run directory.

A trainer of transformers uploads its whole output directory: logs, sampled trials, arguments. Here only named files go,
into a private repository unless asked otherwise.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mrt.errors import ConfigError
from mrt.runs.fields import SECRET_TEXT

ADAPTER = ("adapter_model.safetensors", "adapter_config.json")
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json", "config.json")
BESIDE = (
    *("generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja", "README.md"),
)
TEXT = (".json", ".md", ".txt", ".jinja")


def files_to_push(folder: Path) -> list[str]:
    """The names that would be uploaded: of an adapter's folder the adapter alone, never the base model.

    Raises:
        ConfigError: for a folder without weights, and for a file that holds what looks like a credential.
    """
    named = ADAPTER if (folder / ADAPTER[0]).is_file() else WEIGHTS
    names = sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    chosen = [name for name in names if any(fnmatch(name, pattern) for pattern in (*named, *BESIDE))]
    if not any(name.endswith(".safetensors") for name in chosen):
        raise ConfigError(f"{folder} holds no weights to push (model.safetensors or adapter_model.safetensors)")
    for name in chosen:
        if name.endswith(TEXT) and SECRET_TEXT.search((folder / name).read_text(encoding="utf-8", errors="replace")):
            raise ConfigError(f"{folder / name} holds what looks like a credential: nothing was pushed")
    return chosen


def push(folder: Path, repo: str, private: bool = True, token: str | None = None, api: Any = None) -> str:
    """Uploads `files_to_push(folder)` to the model repository `repo`, created if missing; returns its name.

    Args:
        private: of the repository. True refuses an existing public one.
        api: a `huggingface_hub.HfApi`, or a stand-in for one.

    Raises:
        ConfigError: for an invalid name, a public repository where a private one was asked for, and as
            `files_to_push`.
    """
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", repo, re.ASCII):
        raise ConfigError(f"'{repo}' is not the name of a repository, as in someone/my-adapter")
    names = files_to_push(folder)
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi()
    made = str(api.create_repo(repo, token=token, private=private, exist_ok=True).repo_id)
    if private and not api.repo_info(made, token=token).private:
        raise ConfigError(
            f"{made} already exists and is public: nothing was pushed. Set hub_private_repo=false to allow"
        )
    message = "Adapter" if ADAPTER[0] in names else "Model"
    api.upload_folder(repo_id=made, folder_path=str(folder), allow_patterns=names, commit_message=message, token=token)
    return made
