"""Rows of a data file or a hub set, each with its place, so that an error can say where it is.

Nothing is dropped, repaired or guessed: a row that cannot be read as it stands ends the reading with a `DataError`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mrt.errors import ConfigError, DataError

Row = Mapping[str, Any]
SUFFIXES = (".jsonl", ".ndjson", ".csv", ".parquet")


def read_rows(
    path: str,
    wanted: Collection[str],
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
) -> Iterator[tuple[int, Row]]:
    """(row number from 1, row) of a file, or of the split of a hub set where `path` is no file.

    In JSONL the row number is the line number; in CSV the first row is the one after the header. Every row names all of
    its columns; of a table (parquet, hub) only those `wanted` are read, the others are None.

    Raises:
        ConfigError: for a missing or unknown kind of file, and a hub set that cannot be loaded.
        DataError: for a row that cannot be read; it names file, row and cure.
    """
    file = Path(path)
    if file.suffix.lower() in SUFFIXES:
        if config is not None or split is not None or revision is not None:
            raise ConfigError(f"'config' and 'split' are for hub sets (and 'revision'); {path} is a file, read whole")
        if not file.is_file():
            raise ConfigError(f"no such file: {path}")
        if file.suffix.lower() == ".parquet":
            return _parquet_rows(file, wanted)
        return _csv_rows(file) if file.suffix.lower() == ".csv" else _jsonl_rows(file)
    if file.exists() or path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise ConfigError(f"{path} is neither a file of a known kind ({', '.join(SUFFIXES)}) nor the name of a hub set")
    return _hub_rows(path, wanted, config, split or "train", revision)


def _jsonl_rows(file: Path) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(_bytes(file).removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{file.name}, row {number}"
        try:
            row = json.loads(line.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{where}: not UTF-8 at byte {error.start + 1} of the line; save the file as UTF-8"
            ) from error
        except RecursionError as error:
            raise DataError(f"{where}: brackets nested too deep to be read; flatten the row") from error
        except ValueError as error:
            raise DataError(f"{where}: not a JSON object ({str(error)[:200]}); write one object a line") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: a JSON {type(row).__name__} where an object with named columns is needed")
        yield number, row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"column {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return row


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _csv_rows(file: Path) -> Iterator[tuple[int, Row]]:
    # Bytes that are no UTF-8 are carried along as surrogates, so that the row and column they stand in can be named.
    text = _bytes(file).removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    number = 0
    while True:
        where = f"{file.name}, header" if header is None else f"{file.name}, row {number + 1}"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{where} (line {reader.line_num}): {error}; mend the quotes of this row") from error
        if fields is None:
            return
        if not fields:
            continue  # a blank line
        if header is None:
            header = _header(where, fields)
            continue
        number += 1
        if len(fields) != len(header):
            raise DataError(
                f"{where} (line {reader.line_num}): {len(fields)} fields where the header names {len(header)} columns; "
                "quote fields that hold commas or line breaks"
            )
        for column, value in zip(header, fields, strict=True):
            if not is_unicode(value):
                raise DataError(f"{where}, column {column!r}: not UTF-8; save the file as UTF-8")
        yield number, dict(zip(header, fields, strict=True))


def _header(where: str, fields: list[str]) -> list[str]:
    if not all(map(is_unicode, fields)):
        raise DataError(f"{where}: not UTF-8; save the file as UTF-8")
    if len(set(fields)) < len(fields):
        raise DataError(f"{where}: two columns have the same name ({', '.join(fields)[:200]}); rename one")
    return fields


def _parquet_rows(file: Path, wanted: Collection[str]) -> Iterator[tuple[int, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{file.name}: not a parquet file that can be read ({str(error)[:200]}); write it anew"
        ) from error
    yield from _table_rows(file.name, table, wanted)


def _hub_rows(
    name: str, wanted: Collection[str], config: str | None, split: str, revision: str | None
) -> Iterator[tuple[int, Row]]:
    import datasets

    try:
        loaded = datasets.load_dataset(name, config, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the hub set '{name}' (config {config}, split {split}) could not be loaded: {str(error)[:300]}. Check the "
            "name, the options 'config' and 'split', and the network; or give a local file"
        ) from error
    yield from _table_rows(f"{name}:{split}", loaded.with_format("arrow")[:], wanted)


def _table_rows(source: str, table: Any, wanted: Collection[str]) -> Iterator[tuple[int, Row]]:
    names = table.column_names
    if len(set(names)) < len(names):
        raise DataError(f"{source}: two columns have the same name ({', '.join(names)[:200]}); rename one")
    columns = {name: table.column(name) for name in names if name in wanted}
    for index in range(table.num_rows):
        row = dict.fromkeys(names)
        for name, column in columns.items():
            try:
                row[name] = column[index].as_py()
            except (ValueError, ArithmeticError) as error:
                raise DataError(
                    f"{source}, row {index + 1}, column {name!r}: unreadable ({str(error)[:200]}); write text as UTF-8"
                ) from error
        yield index + 1, row


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error


def is_unicode(text: str) -> bool:
    """False for text with lone surrogates, which no encoding can write."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
