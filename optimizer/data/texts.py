"""Texts without labels, from a file: more for a student to learn from, or for a vocabulary to keep."""

from __future__ import annotations

from pathlib import Path

from bantam.errors import DataError
from optimizer.data.columns import TEXT, find_column
from optimizer.data.table import read_table


def read_texts(path: Path) -> list[str]:
    """The texts of a .txt file (one a line), or of the text column of a CSV, TSV, JSONL or Parquet file; no empty ones.

    Raises :class:`DataError` if the file cannot be read, has no text column, or no text.
    """
    if path.suffix.lower() == ".txt":
        try:
            found = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise DataError(f"{path} cannot be read as UTF-8 text: {exc}.") from exc
    else:
        table = read_table(path)
        found = [str(cell or "") for cell in table.columns[find_column(table, None, TEXT, "text")]]
    texts = [text.strip() for text in found if text.strip()]
    if not texts:
        raise DataError(f"{path} has no text in it. Expected one text a line, or a text column.")
    return texts
