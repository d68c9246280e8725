"""Append-only shards: what only ever grows at its end and shrinks at its front is saved by writing what is new.

    checkpoint-N/replay/manifest.json             sha256 and size of every shard, and which items are live
    checkpoint-N/replay/120-480.safetensors       items 120 to 479

Items are numbered from the first that there ever was. A shard is never changed once it is written: the next checkpoint
holds the same file by a hard link (a copy where the disk has no links), so every checkpoint is whole by itself, and the
last one that names a shard takes it along when it is pruned.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from mrt.errors import CheckpointError
from mrt.training import checkpoint as ckpt

MOST_SHARDS = 256  # beyond, everything live is written anew as one: each save links, and each load opens, all of them
SHARD = re.compile(r"(\d+)-(\d+)\.safetensors")
Items = tuple[int, int]
"""From the first to before the last."""
Read = Callable[[int, int], dict[str, Tensor]]


@runtime_checkable
class Sharded(Protocol):
    """A state that writes files of its own into a checkpoint, see `SavingMixin.register_state`.

    `previous` is its folder in the checkpoint that was saved or loaded last, None before the first.
    """

    def save_shards(self, folder: Path, previous: Path | None) -> None:
        """Everything into `folder`, sharing with `previous` what is there already."""

    def load_shards(self, folder: Path) -> None:
        """Back from `folder`."""

    def unsaved_bytes(self, previous: Path | None) -> int:
        """About how much `save_shards` will write."""


def kept_shards(previous: Path | None, live: Items) -> list[Items]:
    """The shards in `previous` that a save of the items `live` can share: without a gap, in order, [] for none.

    `previous` has to be of the same history: what was saved last, or what was loaded.
    """
    if previous is None:
        return []
    try:
        files = ckpt.read_manifest(previous)["files"]
    except (CheckpointError, OSError):  # deleted or damaged since: then all of it is written again
        return []
    matches = sorted((int(m[1]), int(m[2]), name) for name in files if (m := SHARD.fullmatch(name)))
    kept: list[Items] = []
    for first, last, name in matches:
        if last <= live[0]:
            continue
        reaches = first == kept[-1][1] if kept else first <= live[0]
        path = previous / name
        if last > live[1] or not reaches or not path.is_file() or path.stat().st_size != files[name]["size"]:
            return []
        kept.append((first, last))
    return kept if len(kept) < MOST_SHARDS else []


def write_shards(folder: Path, previous: Path | None, live: Items, read: Read) -> None:
    """Saves the items `live` in `folder`, those in shards of `previous` by linking them.

    Args:
        read: (first, last) -> {name: tensor} of the items from first to before last.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    kept = kept_shards(previous, live)
    known = {}
    for shard in kept:
        assert previous is not None
        name = _name(shard)
        known[name] = ckpt.read_manifest(previous)["files"][name]
        _link(previous / name, folder / name)
    new = (kept[-1][1] if kept else live[0], live[1])
    if new[1] > new[0]:
        tensors = {name: value.detach().cpu().contiguous() for name, value in read(*new).items()}
        save_file(tensors, folder / _name(new))
    ckpt.write_manifest(folder, known, live=list(live))


def read_shards(folder: Path) -> tuple[Items, Iterator[tuple[Items, dict[str, Tensor]]]]:
    """The live items, and every shard with the tensors that `write_shards` was given for it, in order.

    Raises:
        CheckpointError: naming the file that is missing, torn or altered.
    """
    from safetensors.torch import load_file

    problems = ckpt.verify(folder)
    if problems:
        raise CheckpointError(f"{folder} cannot be loaded: {problems[0]}")
    facts = ckpt.read_manifest(folder)
    shards = sorted((int(m[1]), int(m[2])) for name in facts["files"] if (m := SHARD.fullmatch(name)))
    first, last = facts["live"]
    return (first, last), ((shard, load_file(folder / _name(shard))) for shard in shards)


def hashed_inside(checkpoint: Path) -> dict[str, Any]:
    """{relative path: {sha256, size}} of what folders in a checkpoint list in a manifest of their own."""
    return {
        f"{manifest.parent.name}/{name}": entry
        for manifest in checkpoint.glob(f"*/{ckpt.MANIFEST}")
        for name, entry in ckpt.read_manifest(manifest.parent)["files"].items()
    }


def _name(shard: Items) -> str:
    return f"{shard[0]}-{shard[1]}.safetensors"


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
