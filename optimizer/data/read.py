"""A file to a table, by its suffix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bantam.errors import DataError
from optimizer.data.arrow import read_parquet
from optimizer.data.delimited import looks_delimited, read_delimited
from optimizer.data.documents import read_json
from optimizer.data.names import TEXTS, fold
from optimizer.data.table import Table
from optimizer.data.text_file import kind, text_of

FASTTEXT = "__label__"
SPREADSHEETS = (".xlsx", ".xls", ".ods", ".xlsm")


def read_table(path: Path) -> Table:
    """Read a CSV, TSV, JSONL, JSON, Parquet or text file, also a compressed one.

    Raises :class:`DataError` for another suffix, an empty file, one that is not of its format, or no Unicode text.
    """
    reader = READERS.get(kind(path))
    if reader is None:
        hint = " Save the sheet as CSV (UTF-8)." if kind(path) in SPREADSHEETS else ""
        raise DataError(
            f"{path}: cannot read {kind(path) or 'a file without a suffix'!r}.{hint} Known: {', '.join(READERS)}; "
            "all but Parquet also as .gz, .bz2 or .xz."
        )
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty. Expected a text and a label column.")
        table = reader(path)
    except OSError as exc:
        raise DataError(f"{path} cannot be read: {exc}.") from exc
    if not table.lines:
        raise DataError(
            f"{path} has no rows, only the columns {', '.join(list(table.columns)[:12])[:600] or '(none)'}."
        )
    return table


def _read_lines(path: Path) -> Table:
    """One text a line; a table with a header if tabs show one."""
    with text_of(path) as file:
        header = file.readline()
    if {fold(name) for name in header.split("\t")} & TEXTS and "\t" in header:
        return read_delimited(path)
    if tabs := looks_delimited(path):
        raise DataError(
            f"{path}: each line has {tabs + 1} parts separated by tabs, where one text a line was expected.\n"
            "If it is a table, add a header line with the names of its columns, such as text and label."
        )
    with text_of(path) as file:
        numbered = [(number, line.strip()) for number, line in enumerate(file, start=1) if line.strip()]
    if not numbered:
        raise DataError(f"{path} has no text in it. Expected one text a line.")
    lines = [number for number, _ in numbered]
    if all(line.startswith(FASTTEXT) for _, line in numbered):
        return Table(str(path), _fasttext([line for _, line in numbered]), lines)
    return Table(str(path), {"text": [line for _, line in numbered]}, lines)


def _fasttext(lines: Sequence[str]) -> dict[str, list[Any]]:
    """Texts and lists of labels of fastText's format: ``__label__spam __label__ad Buy now``."""
    texts, labels = [], []
    for line in lines:
        words = line.split(" ")
        count = next((i for i, word in enumerate(words) if not word.startswith(FASTTEXT)), len(words))
        labels.append([word.removeprefix(FASTTEXT) for word in words[:count]])
        texts.append(" ".join(words[count:]))
    return {"text": texts, "label": labels}


READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json,
    ".parquet": read_parquet,
    ".txt": _read_lines,
}
