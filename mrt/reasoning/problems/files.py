"""Mathematics from your own data: JSONL, CSV, parquet or a hub set, every row checked before anything trains."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mrt.errors import ConfigError, DataError
from mrt.reasoning.grading.form import read
from mrt.reasoning.grading.math_grader import BOXES, MathGrader
from mrt.reasoning.grading.math_text import Unreadable
from mrt.reasoning.grading.verdict import Grade, Verdict, content_of
from mrt.reasoning.problems.base import SPLITS, Problem
from mrt.reasoning.problems.columns import NAMES, Columns, checked_columns, find_columns, gold_text, joined
from mrt.reasoning.problems.rows import Row, read_rows
from mrt.tasks import split_of

DEFAULT_PROMPT = "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
MAX_GOLD = 20_000  # characters


@dataclass(frozen=True)
class _Read:
    """One accepted row: the problem, and where it stands."""

    problem: Problem
    where: str


class Unusable(DataError):
    """A gold answer that nothing can be graded against."""


class Files:
    """A problem set from a file or the hub, graded by `MathGrader`.

    Args:
        path: a .jsonl, .ndjson, .csv or .parquet file, or the name of a hub set.
        split, config, revision: of a hub set; the split is "train" unless said otherwise, the revision the newest.
        columns: {"prompt": its column, "solution": its column}. What is left out is found where exactly one of the
            usual names (prompt, problem, question; solution, answer) is there. A list for the prompt joins several
            columns; "worked" names one with a written solution, which examples in a prompt show.
        prompt: the text that the model gets, with {problem} in it.
        answer_after: the gold answer is what follows the last of these marks in its column ("####" for GSM8K).
            Without it a gold with \\boxed{...} counts as the content of its last box.
        test_path, test_split: a test set of its own: a file, a hub set, or a further split of `path`.
        warmstart, test: shares of the keys, the rest is for training; `test` is not used beside a test set of its own.
        overlap: what to do with training problems that are in that test set too: "error" or "drop".
        seed: decides which keys go to which split.
        seconds, workers: limit of one comparison, and how many run at once.
        boxes: which boxes of a completion count, "last" or "all" (see `MathGrader`), wherever this set grades.
        references: what a list in the solution column is: "all" values of one answer, or "any": alternative answers, of
            which one is enough.
        unusable: share of the rows that may be left out because nothing can be graded against them: a gold answer that
            cannot be read or is not equal to itself, or one problem with several answers. They stand in `left_out`.

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
        columns: Mapping[str, str | Sequence[str]] | None = None,
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
        boxes: str = "last",
        unusable: float = 0.0,
        references: str = "all",
    ) -> None:
        given = {"path": path, "split": split, "config": config, "answer_after": answer_after, "revision": revision}
        for dial, value in {**given, "test_path": test_path, "test_split": test_split}.items():
            if not (value is None and dial != "path") and (not isinstance(value, str | Path) or not str(value)):
                raise ConfigError(f"files: {dial} must be a text that is not empty, got {value!r}")
        if not isinstance(prompt, str) or "{problem}" not in prompt:
            raise ConfigError(f"files: prompt must hold {{problem}}, got {str(prompt)[:100]!r}")
        if overlap not in ("error", "drop"):
            raise ConfigError(f"files: overlap must be 'error' or 'drop', got {overlap!r}")
        if isinstance(unusable, bool) or not isinstance(unusable, int | float) or not 0 <= unusable < 1:
            raise ConfigError(f"files: unusable must be a share of the rows, from 0 to below 1, got {unusable!r}")
        if boxes not in BOXES:
            raise ConfigError(f"files: boxes must be one of {', '.join(BOXES)}, got {boxes!r}")
        if references not in ("all", "any"):
            raise ConfigError(f"files: references must be 'all' or 'any', got {references!r}")
        self.template, self.answer_after, self.overlap, self.references = prompt, answer_after, overlap, references
        self.columns, self.boxes, self.unusable = checked_columns(columns or {}), boxes, unusable
        self.left_out: list[tuple[str, str]] = []  # (where, why) of rows that nothing can be graded against
        self.dropped = 0  # training problems left out because the test set has them
        self.repeated = 0  # rows that say again what an earlier one said
        self._seconds, self._workers = seconds, workers
        self._revisions = {str(path): revision}
        own_test = test_path is not None or test_split is not None
        shares = shares_of(warmstart, 0.0 if own_test else test)
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
        return best([self._grader.grade(text, gold, opened) for gold in _golds(problem)])

    def grade_many(self, completions: Sequence[tuple[Problem, str]], opened: bool | None = None) -> list[Grade]:
        """`grade` of each in order, `workers` at a time."""
        pairs = [(text, gold) for problem, text in completions for gold in _golds(problem)]
        grades = iter(self._grader.grade_many(pairs, opened))
        return [best([next(grades) for _ in _golds(problem)]) for problem, _ in completions]

    def grade_answer(self, problem: Problem, answer: str) -> Grade:
        return best([self._grader.grade_answer(answer, gold) for gold in _golds(problem)])

    def solutions(self, problem: Problem) -> list[str]:
        """[]: the spellings of a mathematical answer cannot be listed."""
        return []

    @cached_property
    def _grader(self) -> MathGrader:
        return MathGrader(self._workers, self._seconds, boxes=self.boxes)

    def _read(self, path: str, config: str | None, split: str | None) -> dict[str, _Read]:
        """The problems of one source by key. One row an earlier row repeats is counted, one that contradicts it is an
        error, or left out with that row."""
        source = f"{path}:{split or 'train'}" if split or not Path(path).suffix else Path(path).name
        usual = [name for names in (*self.columns.values(), *NAMES.values()) for name in names]
        rows = list(read_rows(path, set(usual), config, split, self._revisions.get(path)))
        if not rows:
            raise DataError(f"{source}: no rows; a problem set needs at least one")
        columns = find_columns(source, [row for _, row in rows], self.columns)
        found: dict[str, _Read] = {}
        contradicted: dict[str, DataError] = {}
        before = len(self.left_out)
        for number, row in rows:
            where = f"{source}, row {number}"
            try:
                problem = self._problem(where, row, columns)
            except Unusable as error:
                self._leave_out(where, error)
                continue
            first = found.setdefault(problem.key, _Read(problem, where))
            if first.where != where:
                try:
                    self._agree(first, _Read(problem, where), columns["solution"][0])
                    self.repeated += 1
                except DataError as error:
                    self._leave_out(where, error)
                    contradicted[problem.key] = error
        for key, cause in contradicted.items():  # which of the answers is meant cannot be told
            self._leave_out(found.pop(key).where, cause)
        count = len(self.left_out) - before
        if count > self.unusable * len(rows):
            shown = "; ".join(why for _, why in self.left_out[before : before + 3])
            raise DataError(
                f"{source}: {count} of {len(rows)} rows cannot be used, more than the share of {self.unusable:g} that "
                f"may be left out (unusable): {shown}"
            )
        return found

    def _leave_out(self, where: str, error: DataError) -> None:
        if not self.unusable:
            raise error
        self.left_out.append((where, str(error)))

    def _problem(self, where: str, row: Row, columns: Columns) -> Problem:
        text = joined(where, row, columns["prompt"], "the text of the problem")
        column = columns["solution"][0]
        several = row.get(column) if self.references == "any" else None
        golds = [self._gold(where, {column: one}, column) for one in several] if isinstance(several, list) else []
        gold = golds[0] if golds else self._gold(where, row, column)
        key = "files:" + hashlib.sha256(" ".join(unicodedata.normalize("NFC", text).split()).encode()).hexdigest()
        data: dict[str, Any] = {"where": where, **({"references": golds} if len(golds) > 1 else {})}
        if "worked" in columns:
            data["worked"] = self._worked(joined(where, row, columns["worked"], "a written solution"))
        return Problem(key, self.template.replace("{problem}", text), gold, data)

    def _worked(self, text: str) -> str:
        """A written solution without the mark of its answer and without GSM8K's calculator notes."""
        if self.answer_after is not None and self.answer_after in text:
            text = text.rpartition(self.answer_after)[0]
        return re.sub(r"<<[^<>]*>>", "", text).strip()

    def _gold(self, where: str, row: Row, column: str) -> str:
        gold = self._extract(where, column, gold_text(where, row, column))
        try:
            read(gold, MAX_GOLD)
        except Unreadable as error:
            raise Unusable(
                f"{where}, column {column!r}: the gold answer {gold[:80]!r} cannot be read ({error}); give the final "
                "answer alone, in \\boxed{...}, or behind a mark named by answer_after"
            ) from error
        if self.unusable:
            grade = self._grader.grade_answer(gold, gold)
            if grade.verdict not in (Verdict.CORRECT, Verdict.TIMEOUT):
                raise Unusable(f"{where}, column {column!r}: the gold answer {gold[:80]!r}: {grade.detail}")
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


def best(grades: Sequence[Grade]) -> Grade:
    """The grade of an answer against several references: right against one is right; else what could not be told."""
    order = [Verdict.CORRECT, Verdict.TIMEOUT, Verdict.ERROR]
    return min(grades, key=lambda grade: order.index(grade.verdict) if grade.verdict in order else len(order))


def _golds(problem: Problem) -> Sequence[str]:
    return problem.data.get("references") or (problem.solution,)


def _both_numbers(one: str, other: str) -> bool:
    """Whether both are plain integers, which differ where their texts do; spares a call of the grader."""
    return all(re.fullmatch("-?[1-9][0-9]{0,30}|0", text) for text in (one, other))


def shares_of(warmstart: float, test: float, name: str = "files") -> dict[str, float]:
    """{split: share of the keys}. Raises ConfigError for shares that are none."""
    for dial, share in {"warmstart": warmstart, "test": test}.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ConfigError(f"{name}: {dial} must be a share of the problems, from 0 to 1, got {share!r}")
    if warmstart + test > 1:
        raise ConfigError(f"{name}: warmstart and test are shares and add up to {warmstart + test}, more than 1")
    return {"train": 1 - warmstart - test, "warmstart": warmstart, "test": test}
