"""Where published files lie that are no part of the repository: shared/ beside the checkout, or $MRT_SHARED."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())


def shared(*parts: str) -> Path:
    """A file or folder in shared/; skips the test where it is not there."""
    folders = [Path(os.environ["MRT_SHARED"])] if "MRT_SHARED" in os.environ else [ROOT.parent / "shared"]
    folders += [parent / "shared" for parent in ROOT.parents[:2]]
    for folder in folders:
        if folder.joinpath(*parts).exists():
            return folder.joinpath(*parts)
    pytest.skip(f"needs {'/'.join(('shared', *parts))} beside the checkout, or its place in $MRT_SHARED")


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
