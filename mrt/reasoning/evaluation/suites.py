"""Reasoning suites: a benchmark as `mrt eval` runs it, from the hub or from a local file.

    kind: reasoning
    description: ...
    problems: files                    # a problem set by name, and its dials
    dials: {columns: {prompt: problem, solution: answer}}
    source:                            # what is published where; leave out for a generated set
      hub: HuggingFaceH4/MATH-500      # null where it is published as a file alone
      split: test
      revision: 6e4ed1a2...            # the commit that is loaded
      file: test.jsonl                 # the file at that commit whose hash this is
      sha256: 35dc4108...
      unknown: why revision, sha256 or licence are null
      rows: 500
      licence: MIT
      copies:                          # other published files with the same problems, and how their columns are called
        - {file: where it is published, sha256: 0e656b43..., dials: {columns: {prompt: problem, solution: solution}}}
    n: 4                               # samples a problem
    budgets: [0, 512, 1024]            # thinking tokens at which an answer is forced
    settings: {temperature: 0.6}       # further fields of EvalConfig

A local file is known by its hash: the published one or one of its copies is read with the dials that stand there. Any
other is measured as well, with a warning, and the results say that it is another file.
"""

from __future__ import annotations

import hashlib
import logging
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
class Copy:
    """The same problems in another published file, and the dials that read it where they differ."""

    file: str
    sha256: str
    dials: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Where a benchmark is published. What could not be found out is None, and `unknown` says why."""

    hub: str | None = None
    split: str = "test"
    config: str | None = None
    revision: str | None = None
    file: str | None = None
    sha256: str | None = None
    rows: int | None = None
    licence: str | None = None
    unknown: str = ""
    copies: tuple[Copy, ...] = ()

    @property
    def hashes(self) -> dict[str, Copy]:
        """The files that hold these problems, by their sha256."""
        own = {self.sha256: Copy(self.file or "", self.sha256)} if self.sha256 else {}
        return own | {copy.sha256: copy for copy in self.copies}


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

        `any_file` says that another file than a published one is meant: then no warning is given.

        Raises:
            ConfigError: for a file where the suite takes none, one that does not exist, and a suite that is published
                as a file alone where none is given.
        """
        if self.source is None:
            if file is not None:
                raise ConfigError(f"suite '{self.name}' makes its problems itself and takes no --file")
            return dict(self.dials), {"suite": self.name}
        origin: dict[str, Any] = {"suite": self.name, "source": asdict(self.source)}
        if file is None:
            if self.source.hub is None:
                raise ConfigError(
                    f"suite '{self.name}' is published as a file, not on the hub: download {self.source.file} and "
                    "name it with --file"
                )
            hub = {key: getattr(self.source, key) for key in ("split", "config", "revision")}
            found = {"path": self.source.hub, **{key: value for key, value in hub.items() if value is not None}}
            return {**self.dials, **found, **_ALL_TEST}, {**origin, "read_from": "hub"}
        if not file.is_file():
            raise ConfigError(f"no such file: {file}")
        found_hash = hashlib.sha256(file.read_bytes()).hexdigest()
        copy = self.source.hashes.get(found_hash)
        if copy is None and self.source.hashes and not any_file:
            logging.getLogger(__name__).warning(
                "%s (sha256 %s...) is none of the published files of suite '%s' (%s): the figures are those of this "
                "file, and results and report say so",
                *(file, found_hash[:12], self.name, ", ".join(one[:12] + "..." for one in self.source.hashes)),
            )
        origin |= {"read_from": str(file), "file_sha256": found_hash, "published_file": copy is not None}
        return {**self.dials, **(copy.dials if copy else {}), "path": str(file), **_ALL_TEST}, origin

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


def _copy(content: Any, where: str) -> Copy:
    if not isinstance(content, Mapping) or not {"file", "sha256"} <= set(content):
        raise ConfigError(f"{where}: each needs the place of its file and its sha256")
    return Copy(**convert_fields(Copy, content, where))


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
        if not isinstance(published, Mapping) or not (published.get("hub") or published.get("file")):
            raise ConfigError(
                f"{source}: source needs the name of a hub set (source: {{hub: openai/gsm8k}}), or a file"
            )
        copies = tuple(_copy(one, f"{source}: source: copies") for one in published.get("copies") or [])
        rest = {key: value for key, value in published.items() if key != "copies"}
        published = Source(**convert_fields(Source, rest, f"{source}: source"), copies=copies)
        asked = ("revision", "sha256", "licence") if published.hub else ("sha256", "licence")
        nulls = [key for key in asked if getattr(published, key) is None]
        if nulls and not published.unknown:
            raise ConfigError(f"{source}: source: {', '.join(nulls)} null without a word why (unknown: ...)")
    budgets = tuple(int(budget) for budget in values.pop("budgets"))
    return ReasoningSuite(**{**values, "budgets": budgets, "settings": settings, "source": published})
