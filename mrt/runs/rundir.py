"""The run directory's record of itself, run.json: which recipe, which versions, and whether the run is finished.

A command that finds its run finished has nothing to do; one that finds the same recipe unfinished resumes; one that
finds another recipe there stops, and says what differs.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

from mrt.errors import CheckpointError, ConfigError
from mrt.runs.fields import is_secret, redact
from mrt.runs.recipe import Recipe, deciding, digest
from mrt.version import version

SCHEMA_VERSION = 1
PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "peft", "math-verify", "numpy")


class RunState(StrEnum):
    """What a command finds in the directory that it is about to write."""

    NEW = "new"
    UNFINISHED = "unfinished"
    FINISHED = "finished"


def main_process() -> bool:
    """Whether this process writes and prints: the only one, or rank 0 of a launcher's."""
    return os.environ.get("RANK", "0") == "0"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """The whole file or the old one: written beside it, flushed to disk, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    with staged.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, default=str)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(staged, path)


def read_run(run_dir: Path) -> dict[str, Any]:
    """run.json, or {} where there is none. Raises CheckpointError for one that cannot be read."""
    path = run_dir / "run.json"
    if not path.is_file():
        return {}
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is torn ({error}): remove it, or start over with --fresh") from error
    if not isinstance(run, dict) or run.get("schema_version") != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path} was not written by this version of mrt (schema {SCHEMA_VERSION}): use another output_dir"
        )
    return run


def trained_weights(run_dir: Path) -> Path:
    """RUN/model/model.safetensors.

    Raises:
        ConfigError: where there is no trained model.
    """
    path = run_dir / "model" / "model.safetensors"
    if not path.is_file():
        raise ConfigError(f"{path} is not there: train the recipe first, or let the run finish")
    return path


def inspect_run(run_dir: Path, recipe: Recipe) -> RunState:
    """What is there for this recipe. Raises ConfigError, naming the difference, when it belongs to another one."""
    run, saved = read_run(run_dir), any(run_dir.glob("checkpoint-*"))
    if not run:
        if saved:
            raise ConfigError(
                f"{run_dir} holds checkpoints but no run.json: choose another output_dir, or --fresh to move it aside"
            )
        return RunState.NEW
    theirs, ours = run.get("recipe") or {}, recipe.to_dict()
    if digest(theirs) != digest(ours):
        if not (saved or (run_dir / "model").exists()):
            return RunState.NEW  # nothing was saved yet: a recipe may be fixed and tried again
        raise ConfigError(
            f"{run_dir} belongs to another recipe ({'; '.join(differences(theirs, ours))}): "
            "choose another output_dir, or --fresh to move that run aside and start over"
        )
    return RunState.FINISHED if run.get("finished") is True else RunState.UNFINISHED


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], limit: int = 5) -> list[str]:
    """`key: there X, now Y` for the first keys that differ and that decide the result."""
    left, right = _flat(deciding(theirs)), _flat(deciding(ours))
    keys = [k for k in sorted(left.keys() | right.keys()) if left.get(k) != right.get(k)]
    shown = [f"{k}: there {left.get(k, 'nothing')!r}, now {right.get(k, 'nothing')!r}" for k in keys[:limit]]
    return shown + ([f"and {len(keys) - limit} more"] if len(keys) > limit else [])


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}{key}.") if isinstance(inner, Mapping) else {f"{prefix}{key}": inner}
    return flat


def start_run(run_dir: Path, recipe: Recipe, command: Sequence[str]) -> None:
    """Writes run.json before the first step; a resumed run keeps its start and notes each resume."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    before = read_run(run_dir)
    run = {
        "schema_version": SCHEMA_VERSION,
        "name": run_dir.name,
        "command": redact_command(command),
        "recipe": recipe.to_dict(),
        "recipe_sha256": recipe.digest(),
        "versions": versions(),
        "commit": commit(),
        "started": before.get("started", now),
        "resumed": [*before.get("resumed", []), now] if before else [],
        "finished": False,
    }
    write_json(run_dir / "run.json", run)


def finish_run(run_dir: Path, **facts: Any) -> None:
    """Marks the run finished, with facts about its end."""
    ended = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(run_dir / "run.json", read_run(run_dir) | {"finished": True, "ended": ended} | facts)


def set_aside(run_dir: Path) -> Path | None:
    """Moves what is there to the next free `NAME.old-N`; nothing is ever deleted. None when there is nothing."""
    if not run_dir.is_dir() or not any(path.name != ".lock" for path in run_dir.iterdir()):
        return None
    number = 1
    while (aside := run_dir.with_name(f"{run_dir.name}.old-{number}")).exists():
        number += 1
    run_dir.rename(aside)
    return aside


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Holds the directory for this process. Raises ConfigError, with the other's process id, when it is held already.

    The lock is the operating system's: it goes with its process, even one that is killed; children do not inherit it.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ConfigError(
                f"{run_dir} is being written by process {holder}: wait for it, end it, or choose another output_dir"
            ) from error
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


def redact_command(command: Sequence[str]) -> list[str]:
    """The command line with the values of credentials left out: recognised by their key, or by their own form."""
    parts = (item.partition("=") for item in command)
    return [
        f"{key}=***" if equals and is_secret(key.lstrip("-").replace("-", "_")) else redact(key + equals + value)
        for key, equals, value in parts
    ]


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide a result, without importing any."""
    found = {"python": sys.version.split()[0], "mrt": version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of the checkout that mrt runs from, `+` where it has changes; None outside one."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        answers = [
            subprocess.run(
                ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, timeout=10, check=True
            ).stdout
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return answers[0].strip() + ("+" if answers[1].strip() else "")
