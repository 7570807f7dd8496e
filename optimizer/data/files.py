"""A data set from a file, or from a folder with a file for each split; and texts without labels."""

from __future__ import annotations

from pathlib import Path

from bantam.errors import DataError
from optimizer.data.columns import SPLIT_NAMES, TEXT, build_from_tables, find_column
from optimizer.data.dataset import Columns, Dataset
from optimizer.data.table import READERS, read_table


def load_path(path: Path, *, columns: Columns, seed: int) -> Dataset:
    """Load a file, or a folder with train, dev and test files; see :func:`optimizer.data.load_dataset`."""
    files = _split_files(path) if path.is_dir() else {"train": path}
    return build_from_tables(
        path.resolve().name if path.is_dir() else path.stem,
        {part: read_table(file) for part, file in files.items()},
        columns=columns,
        seed=seed,
        licence="not stated",
        source=str(path),
    )


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


def _split_files(folder: Path) -> dict[str, Path]:
    readable = sorted(path for path in folder.iterdir() if path.suffix.lower() in READERS)
    found: dict[str, Path] = {}
    for path in readable:
        part = SPLIT_NAMES.get(path.stem.lower())
        if part in found:
            raise DataError(f"{folder} has two files for the {part} split: {found[part].name} and {path.name}.")
        if part:
            found[part] = path
    if "train" in found:
        return found
    if len(readable) == 1:
        return {"train": readable[0]}
    names = ", ".join(path.name for path in readable[:5]) or "none"
    raise DataError(
        f"{folder} has no train file; data files found: {names}. Expected train, dev and test with one of the suffixes "
        f"{', '.join(READERS)}; or give one file."
    )
