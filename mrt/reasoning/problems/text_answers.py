"""Answers that are words: exact match with one of several references, and multiple choice; from your own file or a hub
set."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from mrt.errors import ConfigError, DataError
from mrt.reasoning.grading.verdict import Grade, Verdict
from mrt.reasoning.problems.base import SPLITS, Problem
from mrt.reasoning.problems.boxed import Boxed
from mrt.reasoning.problems.columns import checked_columns, find_columns, joined, text_of
from mrt.reasoning.problems.files import shares_of
from mrt.reasoning.problems.rows import Row, read_rows
from mrt.tasks import split_of

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PROMPTS = {
    "exact": "{problem}\n\nThink step by step, and put the answer alone within \\boxed{}.",
    "choice": "{problem}\n\n{options}\n\nThink step by step, and put the letter of the right option within \\boxed{}.",
}


class Exact(Boxed):
    """Problems whose answer is right where it reads like one of the references: case, outer blanks, runs of blanks, a
    full stop at the end and the form of Unicode (NFKC) make no difference; nothing else is forgiven.

    Args:
        path, split, config, revision: a .jsonl, .ndjson, .csv or .parquet file, or a hub set (as for `files`).
        columns: {"prompt": its column or several, "solution": its column}; a list there holds alternative answers.
        prompt: the text that the model gets, with {problem} in it.
        warmstart, test: shares of the keys; the rest is for training.
        seed: decides which keys go to which split.

    Raises:
        ConfigError: for options that cannot work.
        DataError: for the first row that cannot be used, and for one problem with two different answers.
    """

    name = "exact"

    def __init__(
        self,
        path: str,
        *,
        split: str | None = None,
        config: str | None = None,
        revision: str | None = None,
        columns: Mapping[str, Any] | None = None,
        prompt: str | None = None,
        warmstart: float = 0.0,
        test: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.template = prompt or PROMPTS[self.name]
        if "{problem}" not in self.template:
            raise ConfigError(f"{self.name}: prompt must hold {{problem}}, got {self.template[:100]!r}")
        given, shares = checked_columns(columns or {}), shares_of(warmstart, test, self.name)
        rows = list(read_rows(path, self._wanted(given), config, split, revision))
        if not rows:
            raise DataError(f"{path}: no rows; a problem set needs at least one")
        names = find_columns(path, [row for _, row in rows], given)
        found: dict[str, Problem] = {}
        for number, row in rows:
            problem = self._problem(f"{path}, row {number}", row, names)
            first = found.setdefault(problem.key, problem)
            if self._said(first) != self._said(problem):
                raise DataError(
                    f"{problem.data['where']}: the same problem as in {first.data['where']} with another answer "
                    f"({problem.solution[:80]!r}, there {first.solution[:80]!r}); keep the right one"
                )
        splits: dict[str, list[Problem]] = {name: [] for name in SPLITS}
        for problem in found.values():
            splits[split_of(problem.key, shares, seed)].append(problem)
        super().__init__(splits)

    def _said(self, problem: Problem) -> set[str]:
        """What is right, as it is compared."""
        return {plain(one) for one in problem.data["references"]}

    def _wanted(self, given: Mapping[str, tuple[str, ...]]) -> set[str]:
        """Names of the columns to read."""
        return {
            "prompt",
            "problem",
            "question",
            "solution",
            "answer",
            *(name for one in given.values() for name in one),
        }

    def _problem(self, where: str, row: Row, names: Mapping[str, tuple[str, ...]]) -> Problem:
        text = joined(where, row, names["prompt"], "the text of the problem")
        references = list(_references(where, row, names["solution"][0]))
        data = {"where": where, "references": references}
        return Problem(key_of(self.name, text), self.template.replace("{problem}", text), references[0], data)

    def grade_answer(self, problem: Problem, answer: str) -> Grade:
        shown = answer.strip()[:200]
        if not plain(answer):
            return Grade(Verdict.UNPARSED, shown, "empty")
        return Grade(Verdict.CORRECT if plain(answer) in self._said(problem) else Verdict.WRONG, shown)

    def solutions(self, problem: Problem) -> list[str]:
        """The references: what else would be right differs from one of them by case, blanks or a full stop."""
        return list(problem.data["references"])


class Choice(Exact):
    """Multiple choice: the answer is the letter of an option, in any of the forms B, (B), B. and B) with or without the
    option's text, or that text alone.

    Args:
        options: the column that holds the list of options of each row; further arguments as for `exact`. The gold
            answer is a letter, the number of an option from 0, or an option's text.
    """

    name = "choice"

    def __init__(
        self,
        path: str,
        *,
        options: str = "options",
        split: str | None = None,
        config: str | None = None,
        revision: str | None = None,
        columns: Mapping[str, Any] | None = None,
        prompt: str | None = None,
        warmstart: float = 0.0,
        test: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.options = options
        source: dict[str, Any] = {"split": split, "config": config, "revision": revision, "columns": columns}
        super().__init__(path, prompt=prompt, warmstart=warmstart, test=test, seed=seed, **source)

    def _said(self, problem: Problem) -> set[str]:
        return {plain(problem.data["options"][LETTERS.index(problem.solution)])}

    def _wanted(self, given: Mapping[str, tuple[str, ...]]) -> set[str]:
        return {self.options, *super()._wanted(given)}

    def _problem(self, where: str, row: Row, names: Mapping[str, tuple[str, ...]]) -> Problem:
        text = joined(where, row, names["prompt"], "the text of the problem")
        options = row.get(self.options)
        if not isinstance(options, list) or not 2 <= len(options) <= len(LETTERS):
            raise DataError(
                f"{where}, column {self.options!r}: a list of 2 to 26 options is needed, got {options!r:.80}"
            )
        texts = [text_of(where, {"option": one}, "option", "an option") for one in options]
        if len({plain(one) for one in texts}) < len(texts):
            raise DataError(f"{where}, column {self.options!r}: two options read alike; remove one")
        letters = LETTERS[: len(texts)]
        if any(one.upper() in letters and one.upper() != letter for one, letter in zip(texts, letters, strict=True)):
            raise DataError(f"{where}, column {self.options!r}: an option is the letter of another one; write it out")
        gold = _gold_letter(where, row, names["solution"][0], texts)
        shown = "\n".join(f"{letter}. {one}" for letter, one in zip(LETTERS, texts, strict=False))
        prompt = self.template.replace("{problem}", text).replace("{options}", shown)
        # The options belong to the problem, their order does not.
        key = key_of(self.name, text + "\n" + "\n".join(sorted(map(plain, texts))))
        return Problem(key, prompt, gold, {"where": where, "options": texts})

    def grade_answer(self, problem: Problem, answer: str) -> Grade:
        shown, chosen = answer.strip()[:200], letter_of(answer, problem.data["options"])
        if chosen is None:
            return Grade(Verdict.UNPARSED, shown, "names no option")
        return Grade(Verdict.CORRECT if chosen == problem.solution else Verdict.WRONG, shown)

    def solutions(self, problem: Problem) -> list[str]:
        """The letter alone."""
        return [problem.solution]


def plain(text: str) -> str:
    """What is compared of an answer."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).removesuffix(".").strip()


def letter_of(answer: str, options: list[str]) -> str | None:
    """The letter of the option that an answer names; None where it names none, or a letter and another option."""
    letters, text = LETTERS[: len(options)], " ".join(answer.split())
    if match := re.fullmatch(r"\(?([A-Za-z])\)?[.:)]?(?:\s+(.+))?", text):
        letter, rest = match[1].upper(), match[2]
        if letter in letters and (rest is None or plain(rest) == plain(options[letters.index(letter)])):
            return letter
    same = [letter for letter, one in zip(letters, options, strict=True) if plain(one) == plain(text)]
    return same[0] if same else None


def key_of(name: str, text: str) -> str:
    """The canonical key of a problem, whatever its blanks are."""
    digest = hashlib.sha256(" ".join(unicodedata.normalize("NFC", text).split()).encode()).hexdigest()
    return f"{name}:{digest}"


def _references(where: str, row: Row, column: str) -> Iterator[str]:
    value = row.get(column)
    values = value if isinstance(value, list) and value else [value]
    for one in values:
        one = str(one) if isinstance(one, int | float) and not isinstance(one, bool) else one
        yield text_of(where, {column: one} if column in row else row, column, "the gold answer").strip()


def _gold_letter(where: str, row: Row, column: str, options: list[str]) -> str:
    value = row.get(column)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(options):
        return LETTERS[value]
    found = letter_of(value, options) if isinstance(value, str) else None
    if found is None:
        raise DataError(
            f"{where}, column {column!r}: {value!r:.80} names none of the {len(options)} options; write a letter, a "
            "number from 0, or the option's text"
        )
    return found
