"""How much of a test set stands in the training data: n-gram overlap, problem by problem.

Words are runs of letters and digits in lower case, signs and LaTeX backslashes apart; an n-gram is `n` of them in a row
(13 by default, as in Brown et al. 2020, arXiv 2005.14165, appendix C). A problem with fewer words than that counts as
one n-gram of all its words. `overlap` is the share of a problem's n-grams that stand in the training data; a problem is
contaminated where that is above 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrt.errors import ConfigError
from mrt.reasoning.problems import Problem, ProblemSet
from mrt.reasoning.problems.rows import read_rows

NGRAM = 13
SCHEMA_VERSION = 1
_WORD = re.compile(r"[^\W_]+")

Grams = dict[tuple[str, ...], set[int]]


def words_of(text: str) -> list[str]:
    """Its words, in lower case."""
    return _WORD.findall(text.lower())


def ngrams(text: str, n: int = NGRAM) -> list[tuple[str, ...]]:
    """The n-grams of a problem, in order; one of all its words where these are fewer than `n`, [] without a word."""
    words = words_of(text)
    if len(words) <= n:
        return [tuple(words)] if words else []
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def contamination_report(
    problem_set: ProblemSet, problems: Sequence[Problem], train_files: Sequence[Path], n: int = NGRAM
) -> dict[str, Any]:
    """What of `problems` stands in the files that a model was trained on.

    Args:
        train_files: .jsonl, .csv or .parquet files; every text in every column is read, nested ones too.

    Returns:
        {"n", "files", "rows", "contaminated", "problems": {key: {"overlap", "ngrams", "where"}}}; `where` is the first
        file and row that holds one of a problem's n-grams.

    Raises:
        ConfigError: for n < 1 or a file that is not there. DataError: for a row that cannot be read.
    """
    if n < 1:
        raise ConfigError(f"n-grams of {n} words: at least 1 is needed")
    own = {problem.key: set(ngrams(bare_text(problem_set, problem), n)) for problem in problems}
    wanted = {gram for grams in own.values() for gram in grams}
    sizes = sorted({len(gram) for gram in wanted})
    seen: dict[tuple[str, ...], str] = {}
    rows = 0
    for file in train_files:
        if not Path(file).is_file():
            raise ConfigError(f"no such training file: {file}")
        for number, row in read_rows(str(file), _Everything()):
            rows += 1
            for text in _texts(row):
                _note(words_of(text), sizes, wanted, seen, f"{Path(file).name}, row {number}")
    found: dict[str, dict[str, Any]] = {}
    for problem in problems:
        grams = own[problem.key]
        hits = [seen[gram] for gram in ngrams(bare_text(problem_set, problem), n) if gram in seen]
        share = len({gram for gram in grams if gram in seen}) / len(grams) if grams else 0.0
        found[problem.key] = {"overlap": share, "ngrams": len(grams), "where": hits[0] if hits else None}
    return {
        "schema_version": SCHEMA_VERSION,
        "n": n,
        "files": [str(file) for file in train_files],
        "rows": rows,
        "contaminated": sum(one["overlap"] > 0 for one in found.values()),
        "problems": found,
    }


def bare_text(problem_set: ProblemSet, problem: Problem) -> str:
    """The problem without the words that the set's prompt puts around every one of them."""
    before, mark, after = str(getattr(problem_set, "template", "")).partition("{problem}")
    text = problem.prompt
    return text.removeprefix(before).removesuffix(after) if mark else text


def _note(words: list[str], sizes: Sequence[int], wanted: set[Any], seen: dict[Any, str], where: str) -> None:
    for size in sizes:
        for i in range(len(words) - size + 1):
            gram = tuple(words[i : i + size])
            if gram in wanted:
                seen.setdefault(gram, where)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


class _Everything(set[str]):
    """A set of column names that holds every name."""

    def __contains__(self, name: object) -> bool:
        return True
