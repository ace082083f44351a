"""Records of a question file, with messages that say which file, which record and which column."""

from __future__ import annotations

import ast
import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamprune.errors import InvalidValueError, MissingDependencyError, SourceFormatError

TABLE_SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
_SHOWN = 60


@dataclass(frozen=True)
class Record:
    """One record: its columns, and where it stands ("val.csv, record 3")."""

    values: Mapping[str, Any]
    place: str

    def __contains__(self, column: str) -> bool:
        return self.values.get(column) is not None

    def raw(self, column: str) -> Any:
        """What stands in ``column``.

        Raises:
            InvalidValueError: there is no such column, or nothing in it; the columns found are named.
        """
        if column in self:
            return self.values[column]
        found = ", ".join(repr(name) for name in self.values) or "none"
        what = "nothing in column" if column in self.values else "no column"
        raise InvalidValueError(f"{self.place}: {what} {column!r}; found the columns {found}")

    def text(self, column: str, default: str | None = None) -> str:
        """Words (or a number as words) of ``column``; ``default`` where it is not there or empty."""
        if default is not None and column not in self:
            return default
        value = self.raw(column)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.wrong(column, "text", value)
        return str(value).strip()

    def number(self, column: str) -> float:
        """A number of ``column``; a csv has it as text."""
        value = self.raw(column)
        try:
            if not isinstance(value, str | int | float) or isinstance(value, bool):
                raise TypeError
            return float(value)
        except (TypeError, ValueError):
            raise self.wrong(column, "a number", value) from None

    def integer(self, column: str, least: int, most: int) -> int:
        """An integer of ``column`` in [``least``, ``most``]."""
        value = self.number(column)
        if not value.is_integer() or not least <= value <= most:
            raise self.wrong(column, f"an integer in [{least}, {most}]", self.raw(column))
        return int(value)

    def texts(self, column: str) -> tuple[str, ...]:
        """A list of texts of ``column``, at least two; a csv has it written out, "['one', 'two']"."""
        value = self.raw(column)
        if isinstance(value, str) and value.startswith("["):
            with suppress(ValueError, SyntaxError):
                value = ast.literal_eval(value)
        if isinstance(value, str | Mapping) or not isinstance(value, Sequence) or len(value) < 2:
            raise self.wrong(column, "a list of at least two texts", value)
        if any(isinstance(one, bool) or not isinstance(one, str | int | float) for one in value):
            raise self.wrong(column, "a list of texts", value)
        return tuple(str(one).strip() for one in value)

    def records(self, column: str) -> list[Record]:
        """A list of records inside ``column``, each with its own place."""
        value = self.raw(column)
        if not isinstance(value, list):
            raise self.wrong(column, "a list of records", value)
        return [_record(one, f"{self.place}, {column} {index}") for index, one in enumerate(value, 1)]

    def wrong(self, column: str, expected: str, value: object) -> InvalidValueError:
        """The error for a column that holds something else."""
        shown = repr(value)
        shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
        return InvalidValueError(f"{self.place}: column {column!r} must be {expected}, got {shown}")


def read_records(path: Path) -> list[Record]:
    """All records of a .json (list of records), .jsonl, .csv or .parquet file.

    Raises:
        SourceFormatError: broken text, with its line; or no list of records.
        MissingDependencyError: a .parquet file without pyarrow.
    """
    rows = _READERS[path.suffix.lower()](path)
    return [_record(values, f"{path.name}, record {number}") for number, values in enumerate(rows, 1)]


def read_json(path: Path) -> Any:
    """The whole of a .json file."""
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise SourceFormatError(
            f"{path.name} is broken JSON at line {error.lineno}, column {error.colno}: {error.msg} ({path})"
        ) from error


def as_records(rows: Any, place: str) -> list[Record]:
    """Records out of a list that was read as part of something else."""
    if not isinstance(rows, list):
        raise SourceFormatError(f"{place} must hold a list of records, got {type(rows).__name__}")
    return [_record(values, f"{place}, record {number}") for number, values in enumerate(rows, 1)]


def _record(values: Any, place: str) -> Record:
    if not isinstance(values, Mapping):
        raise SourceFormatError(f"{place} must be a record with named columns, got {type(values).__name__}")
    return Record(values, place)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceFormatError(f"{path.name} is no UTF-8 text at byte {error.start} ({path})") from error
    except OSError as error:
        raise SourceFormatError(f"{path} cannot be read: {error.strerror or error}") from error


def _json_rows(path: Path) -> Any:
    rows = read_json(path)
    if not isinstance(rows, list):
        raise SourceFormatError(
            f"{path.name} must hold a list of records, got {type(rows).__name__} ({path})"
        )
    return rows


def _jsonl_rows(path: Path) -> Iterator[Any]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise SourceFormatError(
                    f"{path.name} is broken JSON at line {number}, column {error.colno}: {error.msg} ({path})"
                ) from error


def _csv_rows(path: Path) -> Iterator[dict[str, str | None]]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        for row in reader:
            if None in row:
                raise SourceFormatError(f"{path.name} has more values than columns at line {reader.line_num}")
            yield {name: value if value else None for name, value in row.items()}
    except csv.Error as error:
        raise SourceFormatError(f"{path.name} is broken CSV at line {reader.line_num}: {error}") from error


def _parquet_rows(path: Path) -> list[Any]:
    try:
        from pyarrow import ArrowException  # type: ignore[import-not-found,unused-ignore]
        from pyarrow.parquet import read_table  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise MissingDependencyError.extra("pyarrow", "parquet", f"reading {path.name}") from error
    try:
        rows: list[Any] = read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise SourceFormatError(f"{path.name} is no parquet file that can be read: {error}") from error
    return rows


_READERS: dict[str, Callable[[Path], Any]] = {
    ".json": _json_rows,
    ".jsonl": _jsonl_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
