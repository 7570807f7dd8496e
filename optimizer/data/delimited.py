"""CSV, TSV and their kin: which delimiter, and whether quotes are part of the texts."""

from __future__ import annotations

import csv
import itertools
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bantam.errors import DataError
from optimizer.data.table import Table
from optimizer.data.text_file import ReadableFile, text_of

DELIMITERS = ",;\t|"
NONE = "\x1f"
"""Delimiter of a file of one column: ASCII's unit separator, which no text has."""


def read_delimited(path: ReadableFile) -> Table:
    """Read a table with a header. Raises :class:`DataError` for a row that does not fit the header."""
    rows = delimited_rows(path)
    _, header = next(rows, (0, []))
    columns: list[list[str]] = [[] for _ in header]
    lines = array("q")
    appends = [column.append for column in columns]
    for line, row in rows:
        for append, cell in zip(appends, row, strict=True):
            append(cell)
        lines.append(line)
    by_name = {name: column for name, column in zip(header, columns, strict=True) if name}
    return Table(str(path), by_name, lines, tuple(_unnamed(path, header, columns)))


def delimited_rows(path: ReadableFile) -> Iterator[tuple[int, list[str]]]:
    """The header of a table and then its rows, each as long as the header, with their lines; read as asked for.

    Raises :class:`DataError` for a row that does not fit the header, and a name that is there twice.
    """
    csv.field_size_limit(2**31 - 1)
    with text_of(path) as file:
        sample = list(itertools.islice(file, 200))
    # Excel's own line before the header.
    said = re.fullmatch(r"sep=(.)\s*", sample[0]) if sample else None
    delimiter = said[1] if said else _delimiter(sample)
    # text/tab-separated-values knows no quotes: a text may begin with one.
    plain = delimiter == "\t" and not _quoted_by_rule(path)
    style: dict[str, Any] = {
        "delimiter": delimiter,
        "quoting": csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL,
        "skipinitialspace": bool(sample) and sample[0].count(delimiter) == sample[0].count(delimiter + " ") > 0,
        "strict": True,
    }
    with text_of(path) as file:
        if said:
            next(file)
        yield from _fitting(path, csv.reader(file, **style), delimiter)


def looks_delimited(path: ReadableFile) -> int:
    """How many tabs each line of a file has, if it is the same number for all; else 0."""
    with text_of(path) as file:
        counts = {line.count("\t") for line in file if line.strip()}
    return counts.pop() if len(counts) == 1 else 0


def _delimiter(sample: Sequence[str]) -> str:
    """The one by which most rows are as long as the header; spreadsheets of half of Europe write semicolons."""
    best = max(DELIMITERS, key=lambda mark: _fit(sample, mark))
    return best if _fit(sample, best)[0] > 0 else NONE


def _fit(sample: Sequence[str], mark: str) -> tuple[float, int]:
    quoting: Any = csv.QUOTE_NONE if mark == "\t" else csv.QUOTE_MINIMAL
    widths = [len(row) for row in csv.reader(sample, delimiter=mark, quoting=quoting) if row]
    if not widths or widths[0] < 2:
        return 0.0, 0
    return widths.count(widths[0]) / len(widths), widths[0]


def _fitting(path: ReadableFile, reader: Any, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    before, width = 0, 0
    try:
        for row in reader:
            if not width and row:
                header = [name.strip() for name in row]
                _check_header(path, header)
                width = len(header)
                yield before + 1, header
            elif width:
                if len(row) != width:
                    row = _fitted(row, width, f"{path}, line {before + 1}", delimiter)
                if row:
                    yield before + 1, row
            before = reader.line_num
    except csv.Error as exc:
        raise DataError(
            f"{path}, line {reader.line_num}: {exc}. Is a quote left open? Quotes inside a text are doubled."
        ) from exc


def _check_header(path: ReadableFile, header: Sequence[str]) -> None:
    named = [name for name in header if name]
    if len(set(named)) < len(named):
        raise DataError(
            f"{path}: two columns have the same name. Columns: {', '.join(name[:60] for name in header[:12])}."
        )


def _fitted(row: list[str], width: int, where: str, delimiter: str) -> list[str]:
    """The row as long as the header: cells that are missing are empty, empty ones beyond it are cut off."""
    if any(cell.strip() for cell in row[width:]):
        raise DataError(
            f"{where}: {len(row)} fields, but the header has {width}. "
            f"Quote a text that has {'a tab' if delimiter == chr(9) else repr(delimiter)} in it, or use JSONL."
        )
    return [*row[:width], *[""] * (width - len(row))] if row else []


def _unnamed(path: ReadableFile, header: Sequence[str], columns: Sequence[Sequence[str]]) -> Iterator[str]:
    """A line on cells below an empty name; the first column may be without one, as pandas writes its index."""
    bare = [column for name, column in list(zip(header, columns, strict=True))[1:] if not name]
    filled = sum(any(cell.strip() for cell in cells) for cells in zip(*bare, strict=True))
    if filled:
        yield (
            f"{path}: {filled:,} rows have something in a column without a name; it was left out. Is a text with a "
            "delimiter in it not quoted?"
        )


def _quoted_by_rule(path: ReadableFile) -> bool:
    """Whether the quotes of a tab-separated file are a CSV writer's, rather than the texts' own.

    They are if every field that begins with a quote is well-formed, and something shows that a writer put them there:
    quotes inside are doubled, a tab or line break is inside, all cells of a column are quoted, or all cells with a
    comma and no others, as Excel does.
    """
    with text_of(path) as file:
        if not any(line.startswith('"') or '\t"' in line for line in file):
            return False
    seen: list[str] = []
    shown, by_comma = False, True
    with text_of(path) as file:
        rows = csv.reader(_remembered(file, seen), delimiter="\t", strict=True)
        try:
            # Some writers quote the header, and others do not.
            throughout = set(range(len(next(rows))))
            seen.clear()
            for row in rows:
                quoted = _quoted_cells(row, "".join(seen))
                seen.clear()
                inside = "".join(row[i] for i in quoted)
                if any("\t" in row[i] and "\n" in row[i] for i in quoted):
                    return False  # two lines with a lone quote each
                shown = shown or any(mark in inside for mark in '"\t\n')
                by_comma = by_comma and quoted == {i for i, cell in enumerate(row) if set(cell) & set(',"\t\n')}
                throughout &= quoted
        except csv.Error:
            return False
    return shown or by_comma or bool(throughout)


def _remembered(lines: Iterable[str], seen: list[str]) -> Iterator[str]:
    for line in lines:
        seen.append(line)
        yield line


def _quoted_cells(row: Sequence[str], raw: str) -> set[int]:
    """Which cells are quoted in the line that the row was read from."""
    if '"' not in raw:
        return set()
    return {i for i, cell in enumerate(row) if '"' + cell.replace('"', '""') + '"' in raw}
