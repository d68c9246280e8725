"""What the report reads: evaluation and run directories, checked, as plain records.

Broken files raise DataError with file and line; missing ones leave their part of the report out. Samples are streamed,
so an evaluation may be larger than memory as long as the selected problems are not.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrt.errors import ConfigError, DataError, nearest
from mrt.runs.fields import redact

SCHEMA_VERSION = 1
COLOURS = 7  # --arm-0 .. --arm-6 in templates/report.css; 0 is the baseline's grey
TRACE_BYTES = 12_000_000  # what the traces may take; a phone still opens such a page
_EVAL_FILES = ("eval.json", "results.json", "samples.jsonl")
_RUN_FILES = ("run.json", "metrics.jsonl")
_ENVIRONMENT = {"env", "environ", "environment", "env_vars", "environment_variables"}


def number(value: Any) -> float | None:
    """A finite number as a float; None for anything else (NaN, null, text, true)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        return None
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval; None where there is none."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def read(cls, value: Any) -> "Estimate":
        """From {"mean", "low", "high"}, from a bare number, or from nothing usable."""
        if isinstance(value, Mapping):
            return cls(*(number(value.get(name)) for name in ("mean", "low", "high")))
        return cls(number(value))

    def inverse(self) -> "Estimate":
        """Of a ratio a : b, the ratio b : a."""
        mean, low, high = (1 / value if value else None for value in (self.mean, self.low, self.high))
        return Estimate(mean, high, low)


@dataclass(frozen=True)
class Arm:
    """One evaluation directory or one training run: its name, its colour and what its files say."""

    name: str
    colour: int
    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object; {} when there is no such file. DataError names file and line."""
    if not path.exists():
        return {}
    content = _parse(path.read_bytes(), path, None)
    version = content.get("schema_version", SCHEMA_VERSION)
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise DataError(f"{path}: schema_version {version!r}, this mrt reads {SCHEMA_VERSION}: update mrt.")
    return content


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every line; nothing when there is no such file. DataError names file and line."""
    if path.exists():
        with path.open("rb") as lines:
            for place, line in enumerate(lines, start=1):
                if line.strip():
                    yield place, _parse(line, path, place)


def _parse(text: bytes, path: Path, line: int | None) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, or not UTF-8
        where = line or getattr(error, "lineno", 1)
        cure = "Remove it, or run the command that wrote the file again."
        raise DataError(f"{path}, line {where}: not JSON ({error}). {cure}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}, line {line or 1}: a JSON object was expected, found {type(content).__name__}.")
    return content


def _check(folder: Path, files: Sequence[str], what: str, command: str) -> Path:
    if not any((folder / name).exists() for name in files):
        raise DataError(f"{folder} holds no {what} (none of {', '.join(files)}): write one with `{command}`.")
    return folder


def read_arms(evals: Sequence[Path], baseline: str | None) -> tuple[list[Arm], str]:
    """The arms, and the baseline's name (the first arm's when None). Equal names get a number.

    Raises DataError for a directory that holds no evaluation, ConfigError for an unknown baseline.
    """
    found = []
    for folder in map(Path, evals):
        _check(folder, _EVAL_FILES, "evaluation", "mrt eval")
        found.append((folder, read_json(folder / "eval.json"), read_json(folder / "results.json")))
    names: list[str] = []
    for folder, config, results in found:
        name = unnumbered = str(redact(results.get("name") or config.get("name") or folder.name))
        repeat = 1
        while name in names:
            repeat += 1
            name = f"{unnumbered} ({repeat})"
        names.append(name)
    if baseline is not None and baseline not in names:
        raise ConfigError(f"baseline '{baseline}' is not one of the evaluations: {nearest(baseline, names)}")
    chosen = baseline or (names[0] if names else "")
    arms: list[Arm] = []
    for name, (folder, config, results) in zip(names, found, strict=True):
        grey = name == chosen and len(names) > 1  # with a single arm there is nothing to stand back for
        place = sum(arm.colour > 0 for arm in arms)
        arms.append(Arm(name, 0 if grey else 1 + place % (COLOURS - 1), folder, config, results))
    return arms, chosen


def read_runs(runs: Sequence[Path], arms: Sequence[Arm]) -> list[Arm]:
    """Training runs; one that is named like an arm has its colour. Of a step logged twice the last row counts."""
    colours = {arm.name: arm.colour for arm in arms}
    found = []
    for folder in map(Path, runs):
        _check(folder, _RUN_FILES, "training run", "mrt train")
        config = read_json(folder / "run.json")
        name = str(redact(config.get("name") or folder.name))
        colour = colours.setdefault(name, 1 + sum(value > 0 for value in colours.values()) % (COLOURS - 1))
        rows: dict[float, dict[str, Any]] = {}
        for _, row in read_jsonl(folder / "metrics.jsonl"):
            step = number(row.get("step"))
            if step is not None:
                # A step may be logged in parts (train, then evaluation); a repeated key is the resumed run's.
                rows[step] = rows.get(step, {}) | row
        found.append(Arm(name, colour, folder, config, metrics=[rows[step] for step in sorted(rows)]))
    return found


def embed(value: Any) -> str:
    """JSON that may stand inside a script element: no `<`, `>` or `&` is left, so nothing in it can end the element."""
    text = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plain(value: Any) -> Any:
    """Floats to four decimals, NaN and infinities to None, all the way down."""
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _keys(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for line, row in read_jsonl(path):
        if not isinstance(row.get("key"), str):
            raise DataError(f"{path}, line {line}, column 'key': a string is needed, found {row.get('key')!r}.")
        yield row["key"], row


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the browser shows of one trace; the thought itself only when it is not there episode by episode."""
    episodes = [item for item in _listed(row.get("episodes")) if isinstance(item, Mapping)]
    shown = {
        "verdict": str(row.get("verdict") or "error"),
        "answer": row.get("answer"),
        "thinking": number(row.get("thinking_tokens")),
        "tokens": number(row.get("tokens")),
        "cut": bool(row.get("truncated")),
        "episodes": [[str(e.get("text") or ""), number(e.get("tokens")), number(e.get("end"))] for e in episodes],
        "J": [number(value) for value in _listed(row.get("stop_values"))],
        "se": [number(value) for value in _listed(row.get("stop_value_se"))],
        "forced": [
            [number(item.get("budget")), item.get("answer"), str(item.get("verdict"))]
            for item in _listed(row.get("forced"))
            if isinstance(item, Mapping)
        ],
        "thought": None if episodes else row.get("thought"),
    }
    return {name: value for name, value in shown.items() if value not in (None, False, [])}


def stored_problems(arms: Sequence[Arm], limit: int, seed: int) -> tuple[list[str], int]:
    """The traces of up to `limit` problems, each problem encoded by `embed`, and how many problems there are in all.

    The draw depends on `seed` and the key alone (sha256), so the same problems are shown whatever the arms. It stops
    early once TRACE_BYTES are used. A sample that stands in a file twice is taken from its last line.
    """
    order: dict[str, int] = {}
    for arm in arms:
        for key, _ in _keys(arm.folder / "samples.jsonl"):
            order.setdefault(key, len(order))
    drawn = sorted(order, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode("utf-8", "replace")).digest())[:limit]
    found: dict[str, dict[str, Any]] = {key: {"samples": [{} for _ in arms]} for key in drawn}
    for place, arm in enumerate(arms):
        for key, row in _keys(arm.folder / "samples.jsonl"):
            if key in found:
                problem = found[key]
                problem["prompt"] = problem.get("prompt") or row.get("prompt")
                problem["data"] = problem.get("data") or row.get("data")
                samples = problem["samples"][place]
                repeat = number(row.get("sample"))
                samples[-1 - len(samples) if repeat is None else repeat] = _sample(row)
    encoded: dict[str, str] = {}
    left = TRACE_BYTES
    for key in drawn:
        problem = found[key]
        problem["samples"] = [list(samples.values()) for samples in problem["samples"]]
        text = embed({"key": key, **problem})
        left -= len(text.encode("utf-8", "replace"))
        if left < 0:
            break
        encoded[key] = text
    return [encoded[key] for key in sorted(encoded, key=order.__getitem__)], len(order)


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as stored, without environment variables and credentials that somebody wrote there."""
    kept: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            # An RL environment's options are lower case; the process environment is not.
            leaked = key.lower() in _ENVIRONMENT and any(str(name).isupper() for name in value)
            kept[key] = "(environment variables are left out)" if leaked else settings(value)
        else:
            kept[key] = redact(value, str(key))
    return kept


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """{"a": {"b": 1}} -> {"a.b": "1"}; lists in one line, long values cut."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            flat[prefix + key] = text if len(text) <= 160 else text[:159] + "…"
    return flat
