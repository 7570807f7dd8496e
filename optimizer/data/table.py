"""Files to columns, as they are: what they mean is found out in :mod:`optimizer.data.columns`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bantam.errors import DataError


@dataclass(frozen=True)
class Table:
    """Columns of equal length; a cell is a string, or what JSON or Parquet have there."""

    name: str
    """For messages: the file, or the hub data set and its split."""
    columns: Mapping[str, Sequence[Any]]
    lines: Sequence[int]
    """Where each row is in the file, counted from 1."""


def read_table(path: Path) -> Table:
    """Read a CSV, TSV, JSONL, JSON or Parquet file.

    Raises :class:`DataError` for another suffix, an empty file, a line that is not UTF-8 or not of the format.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: cannot read {path.suffix or 'a file without a suffix'!r}. Known: {', '.join(READERS)}."
        )
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty. Expected a text and a label column.")
        table = reader(path)
    except OSError as exc:
        raise DataError(f"{path} cannot be read: {exc}.") from exc
    if not table.lines:
        raise DataError(f"{path} has no rows, only the columns {', '.join(table.columns) or '(none)'}.")
    return table


def _decoded(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        # exc.object lacks the byte order mark, if there was one; a mark has no line break.
        line = exc.object[: exc.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: not UTF-8 (byte 0x{exc.object[exc.start]:02x}). Save the file as UTF-8, "
            f"for example: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8{path.suffix}"
        ) from exc


def _read_csv(path: Path) -> Table:
    text = _decoded(path)
    header = text.partition("\n")[0]
    # Spreadsheets of half of Europe write semicolons.
    return _delimited(path, text, max(",;\t", key=header.count), csv.QUOTE_MINIMAL)


def _read_tsv(path: Path) -> Table:
    # text/tab-separated-values knows no quotes: a text may begin with one.
    return _delimited(path, _decoded(path), "\t", csv.QUOTE_NONE)


def _delimited(path: Path, text: str, delimiter: str, quoting: Any) -> Table:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        header = next(reader, [])
        before = reader.line_num
        for row in reader:
            if len(row) > len(header):
                raise DataError(
                    f"{path}, line {before + 1}: {len(row)} fields, but the header has {len(header)}. "
                    f"Quote a text that has {'a tab' if delimiter == chr(9) else repr(delimiter)} in it, or use JSONL."
                )
            if row:
                rows.append(row + [""] * (len(header) - len(row)))
                lines.append(before + 1)
            before = reader.line_num
    except csv.Error as exc:
        raise DataError(f"{path}, line {reader.line_num}: {exc}. Is a quote left open?") from exc
    if len(set(header)) < len(header):
        raise DataError(f"{path}: two columns have the same name. Columns: {', '.join(header)}.")
    return Table(str(path), {name: [row[i] for row in rows] for i, name in enumerate(header)}, lines)


def _read_jsonl(path: Path) -> Table:
    objects, lines = [], []
    for number, line in enumerate(_decoded(path).split("\n"), start=1):
        if line.strip():
            objects.append(_parsed(line, f"{path}, line {number}"))
            lines.append(number)
    return _from_objects(path, objects, lines)


def _read_json(path: Path) -> Table:
    if not _decoded(path).lstrip().startswith("["):
        return _read_jsonl(path)
    objects = _parsed(_decoded(path), str(path))
    return _from_objects(path, objects, list(range(1, len(objects) + 1)))


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise DataError(f"{where}: not JSON: {exc}.") from exc


def _from_objects(path: Path, objects: Sequence[Any], lines: Sequence[int]) -> Table:
    for row, line in zip(objects, lines, strict=True):
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {line}: {type(row).__name__}, expected an object with a text and a label.")
    names = dict.fromkeys(name for row in objects for name in row)
    return Table(str(path), {name: [row.get(name) for row in objects] for name in names}, lines)


def _read_parquet(path: Path) -> Table:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        columns = parquet.read_table(path).to_pydict()
    except pa.ArrowException as exc:
        raise DataError(f"{path} cannot be read as Parquet: {exc}.") from exc
    rows = len(next(iter(columns.values()), []))
    return Table(str(path), columns, range(1, rows + 1))


READERS = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
