"""A data set from a file, or from a folder with files for each split; and texts without labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bantam.artifact import Text
from bantam.errors import DataError
from optimizer.data.assemble import build_from_tables
from optimizer.data.columns import find_texts
from optimizer.data.dataset import Columns, Dataset
from optimizer.data.hub import is_saved, saved_tables
from optimizer.data.names import split_of
from optimizer.data.read import READERS, read_table
from optimizer.data.rows import texts_of
from optimizer.data.table import Table
from optimizer.data.text_file import kind, stem

SHARD = re.compile(r"[-_.]?\d+([-_.]of[-_.]\d+)?$")


def load_path(path: Path, *, columns: Columns, seed: int) -> Dataset:
    """Load a file, or a folder with train, dev and test files; see :func:`optimizer.data.load_dataset`."""
    tables, notes = _tables(path)
    return build_from_tables(
        path.resolve().name if path.is_dir() else stem(path),
        tables,
        columns=columns,
        seed=seed,
        licence="not stated",
        source=str(path),
        notes=notes,
    )


def read_texts(path: Path) -> list[Text]:
    """The texts of a .txt file (one a line), or of the text column of a table, no empty ones; pairs if it has two.

    Raises :class:`DataError` if the file cannot be read, has no text column, or no text.
    """
    table = read_table(path)
    text, pair, _ = find_texts(table, Columns())
    texts = texts_of(table, text, pair)
    if not texts:
        raise DataError(f"{path} has no text in it. Expected one text a line, or a text column.")
    return texts


def _tables(path: Path) -> tuple[Mapping[str, Sequence[Table]], list[str]]:
    if not path.is_dir():
        return {"train": [read_table(path)]}, []
    if is_saved(path):
        return saved_tables(path)
    files, notes = _split_files(path)
    return {part: [read_table(file) for file in several] for part, several in files.items()}, notes


def _split_files(folder: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """The files of each split, in a folder or, as in a clone from the hub, in its folder ``data``."""
    readable = _readable(folder) or _readable(folder / "data")
    found: dict[str, list[Path]] = {}
    for path in readable:
        part = split_of(stem(path))
        if part and part in found and _shards_of(found[part][0]) != _shards_of(path):
            raise DataError(f"{folder} has two files for the {part} split: {found[part][0].name} and {path.name}.")
        if part:
            found.setdefault(part, []).append(path)
    used = [path for several in found.values() for path in several]
    left = [path.name for path in readable if path not in used]
    if "train" in found:
        return found, [f"Not read, as their names say no split: {', '.join(left[:5])}."] if left else []
    if readable and len({_shards_of(path) for path in readable}) == 1:
        return {"train": readable}, []
    names = ", ".join(path.name for path in readable[:5]) or "none"
    folders = [each.name for each in sorted(folder.iterdir()) if each.is_dir() and _readable(each)]
    also = f" Folders with data files, each of which can be given: {', '.join(folders[:8])}." if folders else ""
    raise DataError(
        f"{folder} has no train file; data files found: {names}. Expected train, dev and test with one of the suffixes "
        f"{', '.join(READERS)}; or give one file.{also}"
    )


def _readable(folder: Path) -> list[Path]:
    """Data files; a text file is one only if it is called after a split: others are READMEs and licences."""
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    return [
        path for path in files if kind(path) in READERS and (kind(path) != ".txt" or split_of(stem(path)) is not None)
    ]


def _shards_of(path: Path) -> tuple[str, str]:
    """What the shards of one split have in common: ``train-00000-of-00002.parquet`` and ``train-00001-of-...``."""
    return SHARD.sub("", stem(path)), kind(path)
