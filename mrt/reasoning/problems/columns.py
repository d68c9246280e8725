"""Which columns of a data file hold what, and the texts in them: every cause of trouble names its row and column."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mrt.errors import ConfigError, DataError, nearest
from mrt.reasoning.problems.rows import Row, is_unicode

NAMES = {"prompt": ("prompt", "problem", "question"), "solution": ("solution", "answer")}
ROLES = (*NAMES, "worked")
Columns = Mapping[str, tuple[str, ...]]


def checked_columns(columns: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """{role: names of columns} from {role: name or list of names}. Raises ConfigError for anything else."""
    if not isinstance(columns, Mapping):
        raise ConfigError(f"files: columns must map prompt and solution to column names, got {columns!r}")
    found = {}
    for role, column in columns.items():
        if role not in ROLES:
            raise ConfigError(f"files: columns has no '{role}': {nearest(str(role), set(ROLES))}")
        names = tuple(column) if isinstance(column, list | tuple) and role == "prompt" else (column,)
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ConfigError(f"files: columns.{role} must be the name of a column, got {column!r}")
        found[role] = names
    return found


def find_columns(source: str, rows: Sequence[Row], given: Columns) -> dict[str, tuple[str, ...]]:
    """The columns of prompt and solution (and of what else is `given`) among those that are there.

    Raises ConfigError naming the columns found where one that is given is missing, or the usual names do not decide.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    shown = ", ".join(repr(name) for name in names[:20])
    for role, wanted in given.items():
        for name in wanted:
            if name not in names:
                raise ConfigError(
                    f"{source} has no column {name!r}, which 'columns' names for {role}; it has {shown}: "
                    + nearest(name, set(names))
                )
    columns = dict(given)
    for role, usual in NAMES.items():
        if role not in columns:
            there = [name for name in usual if name in names]
            if len(there) != 1:
                cause = f"more than one could be the {role}" if there else f"none is called {' or '.join(usual)}"
                raise ConfigError(
                    f"{source} has the columns {shown}: {cause}. Set columns.{role} to the one that is meant"
                )
            columns[role] = (there[0],)
    return columns


def joined(where: str, row: Row, columns: Iterable[str], what: str) -> str:
    """The texts of several columns, a blank between them; errors as for `text_of`."""
    return " ".join(text_of(where, row, column, what) for column in columns)


def gold_text(where: str, row: Row, column: str) -> str:
    """The gold answer in a column: text, a number, or a list of these. Raises DataError for anything else."""
    value = row.get(column)
    if isinstance(value, list) and value:
        return ", ".join(gold_text(where, {column: item}, column) for item in value)
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            value = str(value)
        except ValueError as error:  # more digits than Python writes
            raise DataError(f"{where}, column {column!r}: {error}; write the answer as text") from error
    elif isinstance(value, float) and math.isfinite(value):
        value = repr(value)
    return text_of(where, {column: value} if column in row else row, column, "the gold answer")


def text_of(where: str, row: Row, column: str, what: str) -> str:
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
