"""Mathematics from your own data: JSONL, CSV, parquet or a hub set, every row checked before anything trains."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mrt.errors import ConfigError, DataError, nearest
from mrt.reasoning.grading.form import read
from mrt.reasoning.grading.math_grader import MathGrader
from mrt.reasoning.grading.math_text import Unreadable
from mrt.reasoning.grading.verdict import Grade, content_of
from mrt.reasoning.problems.base import SPLITS, Problem
from mrt.reasoning.problems.rows import Row, is_unicode, read_rows
from mrt.tasks import split_of

NAMES = {"prompt": ("prompt", "problem", "question"), "solution": ("solution", "answer")}
DEFAULT_PROMPT = "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
MAX_GOLD = 20_000  # characters


@dataclass(frozen=True)
class _Read:
    """One accepted row: the problem, and where it stands."""

    problem: Problem
    where: str


class Files:
    """A problem set from a file or the hub, graded by `MathGrader`.

    Args:
        path: a .jsonl, .ndjson, .csv or .parquet file, or the name of a hub set.
        split, config, revision: of a hub set; the split is "train" unless said otherwise, the revision the newest.
        columns: {"prompt": its column, "solution": its column}. What is left out is found where exactly one of the
            usual names (prompt, problem, question; solution, answer) is there.
        prompt: the text that the model gets, with {problem} in it.
        answer_after: the gold answer is what follows the last of these marks in its column ("####" for GSM8K).
            Without it a gold with \\boxed{...} counts as the content of its last box.
        test_path, test_split: a test set of its own: a file, a hub set, or a further split of `path`.
        warmstart, test: shares of the keys, the rest is for training; `test` is not used beside a test set of its own.
        overlap: what to do with training problems that are in that test set too: "error" or "drop".
        seed: decides which keys go to which split.
        seconds, workers: limit of one comparison, and how many run at once.

    Raises:
        ConfigError: for options that cannot work, naming the columns found where the mapping is not clear.
        DataError: for the first row that cannot be used: file, row, column, cure.
    """

    name = "files"

    def __init__(
        self,
        path: str,
        *,
        split: str | None = None,
        config: str | None = None,
        columns: Mapping[str, str] | None = None,
        prompt: str = DEFAULT_PROMPT,
        answer_after: str | None = None,
        test_path: str | None = None,
        test_split: str | None = None,
        warmstart: float = 0.0,
        test: float = 0.1,
        overlap: str = "error",
        seed: int = 0,
        seconds: float = 5.0,
        workers: int = 1,
        revision: str | None = None,
    ) -> None:
        given = {"path": path, "split": split, "config": config, "answer_after": answer_after, "revision": revision}
        for dial, value in {**given, "test_path": test_path, "test_split": test_split}.items():
            if not (value is None and dial != "path") and (not isinstance(value, str | Path) or not str(value)):
                raise ConfigError(f"files: {dial} must be a text that is not empty, got {value!r}")
        if not isinstance(prompt, str) or "{problem}" not in prompt:
            raise ConfigError(f"files: prompt must hold {{problem}}, got {str(prompt)[:100]!r}")
        if overlap not in ("error", "drop"):
            raise ConfigError(f"files: overlap must be 'error' or 'drop', got {overlap!r}")
        self.template, self.answer_after, self.overlap = prompt, answer_after, overlap
        self.columns = _checked_columns(columns or {})
        self.dropped = 0  # training problems left out because the test set has them
        self.repeated = 0  # rows that say again what an earlier one said
        self._seconds, self._workers = seconds, workers
        self._revisions = {str(path): revision}
        own_test = test_path is not None or test_split is not None
        shares = _shares(warmstart, 0.0 if own_test else test)
        held_out = self._read(str(test_path or path), None if test_path else config, test_split) if own_test else {}
        found = self._read(str(path), config, split)
        self._splits: dict[str, list[Problem]] = {name: [] for name in SPLITS}
        self._splits["test"] = [one.problem for one in held_out.values()]
        for key, one in found.items():
            if key in held_out:
                self._overlap(one, held_out[key])
                continue
            self._splits[split_of(key, shares, seed)].append(one.problem)

    def problems(self, split: str) -> list[Problem]:
        if split not in SPLITS:
            raise ConfigError(f"files has no split '{split}': valid are {', '.join(SPLITS)}")
        return self._splits[split]

    def grade(self, problem: Problem, text: str, opened: bool | None = None) -> Grade:
        return self._grader.grade(text, problem.solution, opened)

    def grade_many(self, completions: Sequence[tuple[Problem, str]], opened: bool | None = None) -> list[Grade]:
        """`grade` of each in order, `workers` at a time."""
        return self._grader.grade_many([(text, problem.solution) for problem, text in completions], opened)

    def grade_answer(self, problem: Problem, answer: str) -> Grade:
        return self._grader.grade_answer(answer, problem.solution)

    def solutions(self, problem: Problem) -> list[str]:
        """[]: the spellings of a mathematical answer cannot be listed."""
        return []

    @cached_property
    def _grader(self) -> MathGrader:
        return MathGrader(self._workers, self._seconds)

    def _read(self, path: str, config: str | None, split: str | None) -> dict[str, _Read]:
        """The problems of one source by key. One row an earlier row repeats is counted, one that contradicts it is an
        error."""
        source = f"{path}:{split or 'train'}" if split or not Path(path).suffix else Path(path).name
        wanted = {*self.columns.values(), *(name for usual in NAMES.values() for name in usual)}
        rows = list(read_rows(path, wanted, config, split, self._revisions.get(path)))
        if not rows:
            raise DataError(f"{source}: no rows; a problem set needs at least one")
        columns = self._find_columns(source, [row for _, row in rows])
        found: dict[str, _Read] = {}
        for number, row in rows:
            where = f"{source}, row {number}"
            problem = self._problem(where, row, columns)
            first = found.setdefault(problem.key, _Read(problem, where))
            if first.where != where:
                self.repeated += 1
                self._agree(first, _Read(problem, where), columns["solution"])
        return found

    def _find_columns(self, source: str, rows: Sequence[Row]) -> dict[str, str]:
        names = list(dict.fromkeys(name for row in rows for name in row))
        shown = ", ".join(repr(name) for name in names[:20])
        columns = {}
        for role, usual in NAMES.items():
            if role in self.columns:
                if self.columns[role] not in names:
                    raise ConfigError(
                        f"{source} has no column {self.columns[role]!r}, which 'columns' names for {role}; it has "
                        f"{shown}: " + nearest(self.columns[role], set(names))
                    )
                columns[role] = self.columns[role]
                continue
            there = [name for name in usual if name in names]
            if len(there) != 1:
                cause = f"more than one could be the {role}" if there else f"none is called {' or '.join(usual)}"
                raise ConfigError(
                    f"{source} has the columns {shown}: {cause}. Set columns.{role} to the one that is meant"
                )
            columns[role] = there[0]
        return columns

    def _problem(self, where: str, row: Row, columns: Mapping[str, str]) -> Problem:
        text = _text(where, row, columns["prompt"], "the text of the problem")
        gold = self._gold(where, row, columns["solution"])
        key = "files:" + hashlib.sha256(" ".join(unicodedata.normalize("NFC", text).split()).encode()).hexdigest()
        return Problem(key, self.template.replace("{problem}", text), gold, {"where": where})

    def _gold(self, where: str, row: Row, column: str) -> str:
        value = row.get(column)
        if isinstance(value, int) and not isinstance(value, bool):
            try:
                value = str(value)
            except ValueError as error:  # more digits than Python writes
                raise DataError(f"{where}, column {column!r}: {error}; write the answer as text") from error
        elif isinstance(value, float) and math.isfinite(value):
            value = repr(value)
        text = _text(where, {column: value} if column in row else row, column, "the gold answer")
        gold = self._extract(where, column, text)
        try:
            read(gold, MAX_GOLD)
        except Unreadable as error:
            raise DataError(
                f"{where}, column {column!r}: the gold answer {gold[:80]!r} cannot be read ({error}); give the final "
                "answer alone, in \\boxed{...}, or behind a mark named by answer_after"
            ) from error
        return gold

    def _extract(self, where: str, column: str, text: str) -> str:
        if self.answer_after is not None:
            _, mark, gold = text.rpartition(self.answer_after)
            if not mark or not gold.strip():
                raise DataError(
                    f"{where}, column {column!r}: nothing follows the mark {self.answer_after!r} (answer_after)"
                )
            return gold.strip()
        if "\\boxed" not in text:
            return text.strip()
        gold_in_box = content_of(text)
        if not gold_in_box:
            raise DataError(f"{where}, column {column!r}: its \\boxed{{}} is empty or not closed; mend the braces")
        return gold_in_box

    def _agree(self, first: _Read, again: _Read, column: str) -> None:
        ours, theirs = first.problem.solution, again.problem.solution
        if ours != theirs and (_both_numbers(ours, theirs) or self._grader.grade_answer(theirs, ours).reward != 1.0):
            raise DataError(
                f"{again.where}, column {column!r}: the same problem as in {first.where} with another answer "
                f"({theirs[:80]!r}, there {ours[:80]!r}); keep the right one"
            )

    def _overlap(self, one: _Read, held_out: _Read) -> None:
        if self.overlap == "error":
            raise DataError(
                f"{one.where}: the same problem is in the test set ({held_out.where}); remove it from one of them, or "
                "set overlap=drop to train without such rows"
            )
        self.dropped += 1


def _both_numbers(one: str, other: str) -> bool:
    """Whether both are plain integers, which differ where their texts do; spares a call of the grader."""
    return all(re.fullmatch("-?[1-9][0-9]{0,30}|0", text) for text in (one, other))


def _checked_columns(columns: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(columns, Mapping):
        raise ConfigError(f"files: columns must map prompt and solution to column names, got {columns!r}")
    for role, column in columns.items():
        if role not in NAMES:
            raise ConfigError(f"files: columns has no '{role}': {nearest(str(role), set(NAMES))}")
        if not isinstance(column, str) or not column:
            raise ConfigError(f"files: columns.{role} must be the name of a column, got {column!r}")
    return dict(columns)


def _shares(warmstart: float, test: float) -> dict[str, float]:
    for dial, share in {"warmstart": warmstart, "test": test}.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ConfigError(f"files: {dial} must be a share of the problems, from 0 to 1, got {share!r}")
    if warmstart + test > 1:
        raise ConfigError(f"files: warmstart and test are shares and add up to {warmstart + test}, more than 1")
    return {"train": 1 - warmstart - test, "warmstart": warmstart, "test": test}


def _text(where: str, row: Row, column: str, what: str) -> str:
    """The text in a column. Raises DataError where it is missing, empty, of another type or not Unicode."""
    if column not in row:
        raise DataError(f"{where}: no column {column!r}, which holds {what}; add it, or remove the row")
    value = row[column]
    if value is None:
        raise DataError(f"{where}, column {column!r}: null where {what} is needed; fill it in, or remove the row")
    if not isinstance(value, str):
        raise DataError(
            f"{where}, column {column!r}: a {type(value).__name__} where {what} is needed; write it as text"
        )
    if not value.strip():
        raise DataError(f"{where}, column {column!r}: empty where {what} is needed; fill it in, or remove the row")
    if not is_unicode(value):
        raise DataError(f"{where}, column {column!r}: holds a lone surrogate, which is no text; write valid Unicode")
    return value
