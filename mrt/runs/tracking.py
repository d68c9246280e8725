"""What a run writes as it goes: append-only JSON lines that a resumed run cuts back, and the ids of its trackers."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mrt.errors import ConfigError, DataError, nearest

METRICS, TRIALS = "metrics.jsonl", "trials.jsonl"
OUR_TRACKERS = ("tensorboard", "trackio", "wandb")  # what the extra `track` installs


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file; DataError names the file and the line of a broken one."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: {error}. Remove the line, or the folder") from error


class JsonLines:
    """One append-only file, one JSON object a line. A resumed run cuts it back to where its checkpoint was saved."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes the rows and hands them to the operating system; NaN and infinities become null (JSON has neither)."""
        lines = b"".join(json.dumps(_plain(row), allow_nan=False).encode() + b"\n" for row in rows)
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
        self._file.write(lines)
        self._file.flush()

    def sync(self) -> int:
        """Flushes the file to disk; its length in bytes, 0 where nothing was written yet."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, length: int) -> bool:
        """Drops everything behind `length` bytes; False when the file is shorter than that: rows are missing."""
        self.close()
        size = self.path.stat().st_size if self.path.exists() else 0
        if size > length:
            os.truncate(self.path, length)
        return size >= length

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist"):  # tensors, numpy arrays and numbers
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_trackers(report_to: Iterable[str]) -> None:
    """Asks whether the trackers of `args.report_to` can start here.

    Raises:
        ConfigError: for an unknown tracker, and for one whose package is not installed.
    """
    wanted = [name for name in report_to if name != "none"]
    if not wanted:
        return
    from transformers.integrations import integration_utils as known

    every, here = list(known.INTEGRATION_TO_CALLBACK), known.get_available_reporting_integrations()
    for name in wanted:
        if name not in every:
            raise ConfigError(f"report_to={name}: unknown tracker; {nearest(name, every)}")
        if name not in here and name not in ("azure_ml", "flyte"):  # transformers does not say whether it finds these
            cure = "'mrt-rl[track]'" if name in OUR_TRACKERS else name
            raise ConfigError(f"report_to={name}: {name} is not installed (pip install {cure}), or set report_to=none")


def tracker_ids(args: Any, known: Mapping[str, str]) -> dict[str, str]:
    """{tracker: id} for the trackers in `args.report_to`: the one given by hand, else the known one, else a new one.

    W&B goes by WANDB_RUN_ID, trackio by the run's name.
    """
    ids = {}
    if "wandb" in args.report_to:
        ids["wandb"] = os.environ.get("WANDB_RUN_ID") or known.get("wandb") or uuid.uuid4().hex[:8]
    if "trackio" in args.report_to:
        fresh = f"{Path(args.output_dir).resolve().name}-{uuid.uuid4().hex[:6]}"
        ids["trackio"] = args.run_name or known.get("trackio") or fresh
    return ids


@contextmanager
def trackers(args: Any, ids: Mapping[str, str]) -> Iterator[None]:
    """Within it a tracker that starts resumes the run it belongs to."""
    before = {name: os.environ.get(name) for name in ("WANDB_RUN_ID", "WANDB_RESUME")}
    if "trackio" in ids:
        args.run_name = ids["trackio"]
    if "wandb" in ids:
        os.environ["WANDB_RUN_ID"] = ids["wandb"]
        os.environ.setdefault("WANDB_RESUME", "allow")
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
