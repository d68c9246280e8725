"""Checkpoints that are whole or absent: written aside, flushed to disk, listed with hashes, renamed into place.

    output_dir/checkpoint-N/manifest.json   sha256 and size of every file; a checkpoint without it does not count
    output_dir/.staging-N/                  a save in progress, or one that was killed
    output_dir/.replaced-N/                 an older checkpoint-N while a new one takes its name
    output_dir/.trash-N/                    one that is being deleted

Nothing under the name checkpoint-N is ever half written or half deleted by us, at whatever moment the process dies.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrt.errors import CheckpointError

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def write_manifest(directory: Path, known: Mapping[str, Any] | None = None, **facts: Any) -> None:
    """Lists every file of `directory` with sha256 and size in manifest.json, with `facts` (JSON) beside the list.

    Args:
        known: {relative path: {sha256, size}} of files that were hashed when they were written.

    Raises:
        CheckpointError: for a symbolic link or anything else that is not a plain file.
    """
    known, files = known or {}, {}
    for path in _walk(directory):
        relative = path.relative_to(directory).as_posix()
        if not stat.S_ISREG(path.lstat().st_mode):
            raise CheckpointError(f"{path} is not a plain file: a checkpoint holds plain files only")
        if relative != MANIFEST:
            files[relative] = known.get(relative) or {"sha256": _sha256(path), "size": path.stat().st_size}
    content = {**facts, "schema_version": SCHEMA_VERSION, "files": files}
    with (directory / MANIFEST).open("wb") as file:
        file.write(_serialise(content))
        file.flush()
        os.fsync(file.fileno())


def read_manifest(directory: Path) -> dict[str, Any]:
    """The facts of a checkpoint, `step` and `files` among them.

    Raises:
        CheckpointError: when it is missing, altered or of another schema version.
    """
    path = directory / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise CheckpointError(f"{directory} has no {MANIFEST}: the save did not finish, or it was not written by mrt")
    raw = path.read_bytes()
    try:
        content = json.loads(raw)
        version = content["schema_version"]
        intact = raw == _serialise({key: value for key, value in content.items() if key != "digest"})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    if not intact or not _well_formed(content):
        raise CheckpointError(f"{path} was altered: it does not match its own digest")
    if version != SCHEMA_VERSION:
        raise CheckpointError(f"{path} has schema version {version}, this version of mrt reads {SCHEMA_VERSION}")
    return content


def verify(directory: Path) -> list[str]:
    """What is wrong with a checkpoint, [] when it is whole: every listed file is there, plain, unaltered, and no other.

    Paths that lead outside, symbolic links and special files are refused before anything is opened.
    """
    if directory.is_symlink() or not directory.is_dir():
        return [f"{directory} is not a folder"]
    try:
        listed = read_manifest(directory)["files"]
    except CheckpointError as error:
        return [str(error)]
    problems = []
    found = set()
    for path in _walk(directory):
        relative = path.relative_to(directory).as_posix()
        if not stat.S_ISREG(path.lstat().st_mode):
            problems.append(f"{relative} is not a plain file")
        elif relative != MANIFEST:
            found.add(relative)
    for name in sorted(found - set(listed)):
        problems.append(f"{name} is not in the manifest")
    for name, expected in listed.items():
        parts = Path(name).parts
        if os.path.isabs(name) or ".." in parts or "\\" in name:
            problems.append(f"{name} leads outside the checkpoint")
        elif name not in found:
            problems.append(f"{name} is missing")
        elif (size := (directory / name).stat().st_size) != expected["size"]:
            problems.append(f"{name} has {size} bytes instead of {expected['size']}")
        elif _sha256(directory / name) != expected["sha256"]:
            problems.append(f"{name} was altered: its sha256 does not match")
    return problems


def newest_checkpoint(output_dir: str | Path) -> Path | None:
    """The whole checkpoint-N with the largest N, or None; a torn one is named in a warning and skipped."""
    restore_replaced(Path(output_dir))
    for path in reversed(list_checkpoints(Path(output_dir))):
        problems = verify(path)
        if not problems:
            return path
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        logger.warning("skipping the checkpoint %s, which is torn: %s%s", path, problems[0], more)
    return None


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Every checkpoint-N of a run in order of N, whole or not."""
    if not output_dir.is_dir():
        return []
    named = ((CHECKPOINT.fullmatch(path.name), path) for path in output_dir.iterdir())
    return [path for _, path in sorted((int(match[1]), path) for match, path in named if match)]


def finalise(staging: Path, target: Path, known: Mapping[str, Any] | None = None, **facts: Any) -> None:
    """Makes the files in `staging` the checkpoint `target`: fsync them all, manifest last, one atomic rename.

    A target that is there already is moved aside first and deleted only once the new one is in place.
    """
    for path in _walk(staging):
        _fsync(path)
    write_manifest(staging, known, **facts)
    for folder in (*(path for path in staging.rglob("*") if path.is_dir()), staging):
        _fsync(folder)
    replaced = target.with_name(f".replaced-{target.name.rpartition('-')[2]}")
    if target.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(target, replaced)
    os.rename(staging, target)
    _fsync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def prune(output_dir: Path, keep: int | None, protect: str | None = None) -> None:
    """Deletes the oldest checkpoints beyond the newest `keep` (at least two; None keeps all), never `protect`.

    Folders named checkpoint-N without a manifest were not written by us: they are neither counted nor deleted.
    """
    if keep is None:
        return
    ours = [path for path in list_checkpoints(output_dir) if (path / MANIFEST).is_file()]
    for path in ours[: -max(keep, 2)]:
        if protect is None or path.name != Path(protect).name:
            trash = path.with_name(f".trash-{path.name.rpartition('-')[2]}")
            shutil.rmtree(trash, ignore_errors=True)
            os.rename(path, trash)
            shutil.rmtree(trash, ignore_errors=True)


def restore_replaced(output_dir: Path) -> None:
    """Gives a checkpoint its name back that was moved aside by a save which then died."""
    for path in output_dir.glob(".replaced-*"):
        target = output_dir / f"checkpoint-{path.name.rpartition('-')[2]}"
        if not target.exists():
            os.rename(path, target)


def sweep(output_dir: Path) -> None:
    """Removes what killed saves and deletions left behind."""
    restore_replaced(output_dir)
    for pattern in (".staging-*", ".replaced-*", ".trash-*"):
        for path in output_dir.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def set_aside(output_dir: Path, paths: list[Path]) -> Path | None:
    """Moves what belongs to another history to the next free `earlier-N/`; None when there is nothing to move."""
    if not paths:
        return None
    number = 1
    while (aside := output_dir / f"earlier-{number}").exists():
        number += 1
    aside.mkdir()
    for path in paths:
        os.rename(path, aside / path.name)
    logger.warning("what an earlier run left in %s is now in %s", output_dir, aside)
    return aside


def preflight(directory: Path, needed: int) -> None:
    """Refuses a save that cannot fit, before the first byte.

    Raises:
        CheckpointError: when fewer than `needed` bytes are free on the disk of `directory`.
    """
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise CheckpointError(
            f"a checkpoint needs about {needed / 2**20:.0f} MiB, but {directory} has {free / 2**20:.0f} MiB free: "
            "make room, or set save_total_limit lower. No earlier checkpoint was touched"
        )


def random_states() -> dict[str, Any]:
    """The states of the global generators of Python, numpy and torch, and of this process's accelerator."""
    states = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Puts back what `random_states` returned; an accelerator that is not here is left out."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])


def _well_formed(content: dict[str, Any]) -> bool:
    files = content.get("files")
    return isinstance(files, dict) and all(
        isinstance(entry, dict) and isinstance(entry.get("sha256"), str) and isinstance(entry.get("size"), int)
        for entry in files.values()
    )


def _serialise(content: dict[str, Any]) -> bytes:
    """The one spelling of a manifest, closed by a digest of the rest: any altered byte shows."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**content, "digest": digest}, sort_keys=True, indent=1) + "\n").encode()


def _walk(directory: Path) -> Iterator[Path]:
    """Every entry that is not a plain folder, in a fixed order; links are named, never followed."""
    for root, folders, files in os.walk(directory):
        folders.sort()
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        yield from (Path(root) / name for name in sorted(files + links))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    if path.is_dir() and os.name != "posix":  # Windows cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
