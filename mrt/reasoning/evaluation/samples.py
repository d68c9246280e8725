"""An evaluation on disk: eval.json says what was asked, samples.jsonl grows by whole chunks and survives a kill.

A chunk (some problems with all their samples) is one write under a lock. Whatever a kill left of a chunk is cut off
by the next writer, before it adds its own; so any number of processes may write to one file, and none writes a
sample twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mrt.errors import ConfigError, DataError
from mrt.runs.fields import redact
from mrt.runs.rundir import write_json

SCHEMA_VERSION = 1


def claim(
    out: Path,
    content: Mapping[str, Any],
    name: str,
    defaults: Mapping[str, Any] | None = None,
    identity: Mapping[str, Any] | None = None,
    *,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Writes eval.json, or checks that the folder holds this very evaluation.

    Args:
        content: the settings; one that an older eval.json lacks counts as its entry in `defaults`.
        identity: fingerprints of what the names in the settings stand for (weights, tokenizer, problems).
        notes: what is worth keeping beside them and decides nothing.

    Raises:
        ConfigError: naming what differs.
    """
    path = out / "eval.json"
    # By form alone: `key` is the name of a column here, and what stands there is read again.
    content, name = redact(json.loads(json.dumps(content)), by_key=False), redact(name)
    identity, notes = dict(identity or {}), redact(notes or {}, by_key=False)
    if not path.is_file():
        write_json(path, {"schema_version": SCHEMA_VERSION, "name": name, **content, "identity": identity, **notes})
        return
    there = {**(defaults or {}), **json.loads(path.read_text(encoding="utf-8"))}
    changed = [key for key, value in content.items() if there.get(key) != value]
    if changed:
        raise ConfigError(
            f"{out} holds another evaluation: {', '.join(f'{k}={there.get(k)!r} there' for k in changed)}. "
            "Cure: another --out, or remove that folder"
        )
    before = there.get("identity") or {}
    moved = [key for key, value in identity.items() if before.get(key, value) != value]
    if moved:
        raise ConfigError(
            f"{out} holds an evaluation of other {' and '.join(moved)} under the same name: they have changed since. "
            "Cure: another --out, or remove that folder"
        )


class Chunks:
    """samples.jsonl of `keys`, `n` samples each, `chunk` problems written together."""

    def __init__(self, path: Path, keys: Sequence[str], n: int, chunk: int) -> None:
        self.path, self.keys, self.n, self.chunk = path, list(keys), n, chunk
        self.place = {key: i for i, key in enumerate(self.keys)}
        self.count = -(-len(self.keys) // chunk)
        self._done: set[int] = set()  # whole chunks up to byte `_offset`, `_lines` lines: they never change any more
        self._offset = self._lines = 0

    def problems(self, index: int) -> range:
        """Places of the problems of a chunk."""
        return range(index * self.chunk, min((index + 1) * self.chunk, len(self.keys)))

    def finished(self) -> set[int]:
        """The chunks that are wholly there. What a kill left behind them is cut off.

        Raises:
            DataError: when a sample there belongs to another problem, or stands there twice.
        """
        if not self.path.is_file():
            return set()
        with _locked(self.path) as file:
            return self._finished(file)

    def append(self, index: int, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Adds a chunk in one write and hands it to the disk; False where another process has added it meanwhile."""
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        self.path.touch(exist_ok=True)
        with _locked(self.path) as file:
            if index in self._finished(file):
                return False
            file.seek(0, os.SEEK_END)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return True

    def _finished(self, file: IO[bytes]) -> set[int]:
        row, current, offset = 0, -1, self._offset
        file.seek(offset)
        for number, line in enumerate(file, self._lines + 1):
            if not line.endswith(b"\n"):
                break
            sample = self._read(line, number)
            place = self.place.get(sample["key"], -1)
            if current < 0:
                current = place // self.chunk
                if current < 0 or current in self._done:
                    raise self._foreign(number, None)
            expected = current * self.chunk + row // self.n
            if place != expected or sample.get("sample", row % self.n) != row % self.n:
                raise self._foreign(number, self.keys[expected])
            row += 1
            offset += len(line)
            if row == len(self.problems(current)) * self.n:
                self._done.add(current)
                self._offset, self._lines, current, row = offset, number, -1, 0
        file.truncate(self._offset)
        return self._done

    def _read(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError) as error:
            raise DataError(f"{self.path}, line {number}: {error}. Cure: another --out") from error

    def _foreign(self, number: int, expected: str | None) -> DataError:
        wanted = f"of problem '{expected}'" if expected else "of a problem that is still open"
        return DataError(f"{self.path}, line {number}: this sample is not {wanted}. Cure: another --out")


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb+") as file:
        try:
            import fcntl
        except ImportError:  # no such locks on this system: one process at a time
            yield file
            return
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield file
        file.flush()
