"""An evaluation on disk: eval.json says what was asked, samples.jsonl grows by whole chunks and survives a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrt.errors import ConfigError, DataError
from mrt.rundir import write_json

SCHEMA_VERSION = 1


def claim(out: Path, content: Mapping[str, Any], name: str) -> None:
    """Writes eval.json, or checks that the folder holds this very evaluation."""
    path = out / "eval.json"
    if path.is_file():
        there = json.loads(path.read_text())
        changed = [key for key, value in content.items() if there.get(key) != json.loads(json.dumps(value))]
        if changed:
            raise ConfigError(
                f"{out} holds another evaluation: {', '.join(f'{k}={there.get(k)!r} there' for k in changed)}. "
                "Cure: another --out, or remove that folder"
            )
        return
    write_json(path, {"schema_version": SCHEMA_VERSION, "name": name, **content})


def whole_chunks(path: Path, keys: Sequence[str], n: int, chunk: int) -> int:
    """Number of problems whose chunk is wholly there; whatever a kill left behind them is cut off.

    Raises:
        DataError: when the samples there belong to other problems.
    """
    if not path.is_file():
        return 0
    whole, keep, offset, count = 0, 0, 0, 0
    with path.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            expected = keys[count // n] if count // n < len(keys) else None
            if json.loads(line)["key"] != expected:
                raise DataError(
                    f"{path}, line {count + 1}: this sample is not of problem '{expected}'. Cure: another --out"
                )
            count += 1
            offset += len(line)
            if count % n == 0 and ((count // n) % chunk == 0 or count // n == len(keys)):
                whole, keep = count // n, offset
        file.truncate(keep)
    return whole


def append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Adds the rows in one write and hands them to the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file; DataError names the file and the line of a broken one."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: {error}. Remove the line, or the folder") from error
