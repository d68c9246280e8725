"""Reasoning suites: a benchmark as `mrt eval` runs it, from the hub or from a local file.

    kind: reasoning
    description: ...
    problems: files                    # a problem set by name, and its dials
    dials: {columns: {prompt: problem, solution: answer}}
    source:                            # what is published where; leave out for a generated set
      hub: HuggingFaceH4/MATH-500
      split: test
      revision: 6e4ed1a2...            # the commit that is loaded
      file: test.jsonl                 # the file at that commit whose hash this is
      sha256: 35dc4108...
      unknown: why revision, sha256 or licence are null
      rows: 500
      licence: MIT
    n: 4                               # samples a problem
    budgets: [0, 512, 1024]            # thinking tokens at which an answer is forced
    settings: {temperature: 0.6}       # further fields of EvalConfig

With a local file, the file's own hash is compared with `sha256`, and another file is refused unless that is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mrt.errors import ConfigError, DataError
from mrt.reasoning.evaluation.config import EvalConfig
from mrt.runs.fields import convert_fields
from mrt.runs.suites import read_suite

DECIDED_ELSEWHERE = {"model", "problems", "dials", "n", "budgets", "limit", "seed"}


@dataclass(frozen=True)
class Source:
    """Where a benchmark is published. What could not be found out is None, and `unknown` says why."""

    hub: str
    split: str = "test"
    config: str | None = None
    revision: str | None = None
    file: str | None = None
    sha256: str | None = None
    rows: int | None = None
    licence: str | None = None
    unknown: str = ""


@dataclass(frozen=True)
class ReasoningSuite:
    """A checked suite."""

    name: str
    problems: str
    n: int
    budgets: tuple[int, ...]
    dials: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: Source | None = None
    description: str = ""

    def located(self, file: Path | None, any_file: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
        """(dials of the problem set, what to note about its origin), read from `file` or from the hub.

        Raises:
            ConfigError: for a file where the suite takes none, or one that does not exist.
            DataError: for a file that is not the published one, unless `any_file`.
        """
        if self.source is None:
            if file is not None:
                raise ConfigError(f"suite '{self.name}' makes its problems itself and takes no --file")
            return dict(self.dials), {"suite": self.name}
        origin: dict[str, Any] = {"suite": self.name, "source": asdict(self.source)}
        if file is None:
            hub = {key: getattr(self.source, key) for key in ("split", "config", "revision")}
            found = {"path": self.source.hub, **{key: value for key, value in hub.items() if value is not None}}
            return {**self.dials, **found, **_ALL_TEST}, {**origin, "read_from": "hub"}
        if not file.is_file():
            raise ConfigError(f"no such file: {file}")
        found_hash = hashlib.sha256(file.read_bytes()).hexdigest()
        published = self.source.sha256
        if published is not None and found_hash != published and not any_file:
            raise DataError(
                f"{file} (sha256 {found_hash[:12]}...) is not {self.source.file} of {self.source.hub} as suite "
                f"'{self.name}' names it (sha256 {published[:12]}...). Cure: that file, or --any-file to measure on "
                "this one, which the results then say"
            )
        origin |= {"read_from": str(file), "file_sha256": found_hash, "published_file": found_hash == published}
        return {**self.dials, "path": str(file), **_ALL_TEST}, origin

    def check_rows(self, count: int) -> None:
        """Raises DataError where the published set has another number of problems than `count` rows read."""
        expected = self.source.rows if self.source else None
        if expected is not None and count != expected:
            raise DataError(f"suite '{self.name}' has {expected} problems, but {count} were read")


_ALL_TEST = {"test": 1.0, "warmstart": 0.0}  # every row of a benchmark is a test problem


def load_reasoning_suite(path_or_name: str) -> ReasoningSuite:
    """Reads a suite of `kind: reasoning`, see `mrt.runs.suites.read_suite`.

    Raises:
        ConfigError: for a file that is none, an unknown key or a value of the wrong type.
    """
    content, source = read_suite(path_or_name)
    return parse_reasoning_suite(content, source)


def parse_reasoning_suite(content: Mapping[str, Any], source: str) -> ReasoningSuite:
    """A suite from what its file says; errors as for `load_reasoning_suite`."""
    if content.get("kind") != "reasoning":
        raise ConfigError(f"{source} is no suite of `kind: reasoning`")
    rest = {key: value for key, value in content.items() if key not in ("kind", "source")}
    missing = [key for key in ("problems", "n", "budgets") if key not in rest]
    if missing:
        raise ConfigError(f"{source} says nothing about {', '.join(missing)}")
    values = convert_fields(ReasoningSuite, {"name": Path(source).stem, **rest}, source)
    settings = convert_fields(EvalConfig, values.get("settings", {}), f"{source}: settings")
    clash = DECIDED_ELSEWHERE & set(settings)
    if clash:
        raise ConfigError(f"{source}: settings must not hold {', '.join(sorted(clash))}: they have places of their own")
    published = content.get("source")
    if published is not None:
        if not isinstance(published, Mapping) or "hub" not in published:
            raise ConfigError(f"{source}: source needs the name of a hub set (source: {{hub: openai/gsm8k}})")
        published = Source(**convert_fields(Source, published, f"{source}: source"))
        nulls = [key for key in ("revision", "sha256", "licence") if getattr(published, key) is None]
        if nulls and not published.unknown:
            raise ConfigError(f"{source}: source: {', '.join(nulls)} null without a word why (unknown: ...)")
    budgets = tuple(int(budget) for budget in values.pop("budgets"))
    return ReasoningSuite(**{**values, "budgets": budgets, "settings": settings, "source": published})
