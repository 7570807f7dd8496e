"""A corpus, read a block of rows at a time: texts for the model, and the rows as they are for the output."""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bantam.artifact import Text
from bantam.errors import DataError
from bantam.label.hashed import HashedFile
from bantam.label.place import Place
from optimizer.data.columns import find_texts
from optimizer.data.dataset import Columns
from optimizer.data.delimited import delimited_rows
from optimizer.data.documents import json_lines
from optimizer.data.rows import TextColumn
from optimizer.data.table import Table
from optimizer.data.text_file import ReadableFile, kind

BLOCK = 256
"""Rows that are read together."""


@dataclass(frozen=True)
class Block:
    """Some rows. ``texts``: what the model reads of each, None where there is nothing to read."""

    texts: list[Text | None]
    rows: Any
    """As the corpus has them: a list, or an Arrow table. Either is cut by a slice."""

    def cut(self, start: int, stop: int) -> Block:
        """Some of the rows."""
        return Block(self.texts[start:stop], self.rows[start:stop])


@dataclass
class Scan:
    """What the whole of a corpus is found to be, before anything is labelled."""

    sha256: str
    """Of the file's bytes."""
    rows: int = 0
    columns: dict[str, str] = field(default_factory=dict)
    """Name -> what all its cells are: ``bool``, ``int``, ``float``, ``str``, or ``json`` for anything else."""


class Corpus(ABC):
    """A file with texts. Every method raises :class:`DataError` for what is not as it should be, with its line."""

    def __init__(self, place: Place, columns: Columns) -> None:
        """Finds the columns of the texts: those that ``columns`` names, or by their usual names."""
        self.place = place
        first = Table(str(place), self._sample(), range(1, BLOCK + 1))
        self.text, self.pair, _ = find_texts(first, columns)

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The column of the texts, or both of pairs."""
        return (self.text,) if self.pair is None else (self.text, self.pair)

    @abstractmethod
    def blocks(self, skip: int = 0, *, via: ReadableFile | None = None) -> Iterator[Block]:
        """All rows but the first ``skip``. ``via``: what stands for the file and sees all that is read of it."""

    @abstractmethod
    def records(self, rows: Any) -> Iterator[Mapping[str, Any]]:
        """Rows of a block by the names of the columns."""

    @abstractmethod
    def _sample(self) -> dict[str, list[Any]]:
        """The columns of the first rows."""

    def read(self, skip: int = 0, *, via: ReadableFile | None = None) -> Iterator[Block]:
        """The same as ``blocks``, with what goes wrong while it is read in the user's words."""
        blocks = self.blocks(skip, via=via)
        while True:
            with self.place.reading():  # not around the yield: what goes wrong with a block is something else
                block = next(blocks, None)
            if block is None:
                return
            yield block

    def scan(self) -> Scan:
        """Read all of it once."""
        hashed, found = HashedFile(self.place), Scan("")
        for block in self.read(via=hashed):
            found.rows += len(block.texts)
            self._look(block.rows, found.columns)
        with self.place.reading():
            found.sha256 = hashed.sha256()
        if not found.rows:
            raise DataError(f"{self.place} has no rows. Expected texts to label.")
        return found

    @abstractmethod
    def _look(self, rows: Any, columns: dict[str, str]) -> None:
        """Add to ``columns`` what these rows have in them."""

    def _texts(self, lines: Sequence[int], cells: Sequence[Sequence[Any]]) -> list[Text | None]:
        """What there is to read, of the cells of each text column."""
        by_name = dict(zip(self.text_columns, cells, strict=True))
        table = Table(str(self.place), by_name, lines)
        first, *second = [map(TextColumn(table, name), range(len(lines))) for name in by_name]
        if not second:
            return [text or None for text in first]
        return [(one, other) if one and other else None for one, other in zip(first, second[0], strict=True)]


class DelimitedCorpus(Corpus):
    """CSV or TSV; a row is a list of cells."""

    names: tuple[str, ...] = ()
    """All columns, also those without a name."""

    def blocks(self, skip: int = 0, *, via: ReadableFile | None = None) -> Iterator[Block]:
        """As in :class:`Corpus`."""
        rows = delimited_rows(via or self.place)
        next(rows)
        where = [self.names.index(name) for name in self.text_columns]
        for several in _several(itertools.islice(rows, skip, None)):
            lines, cells = zip(*several, strict=True)
            yield Block(self._texts(lines, [[row[i] for row in cells] for i in where]), list(cells))

    def records(self, rows: Any) -> Iterator[Mapping[str, Any]]:
        """As in :class:`Corpus`; columns without a name are left out."""
        return ({name: cell for name, cell in zip(self.names, row, strict=True) if name} for row in rows)

    def _sample(self) -> dict[str, list[Any]]:
        with self.place.reading():
            first = list(itertools.islice(delimited_rows(self.place), BLOCK + 1))
        if not first:
            raise DataError(f"{self.place} is empty. Expected a header and rows.")
        self.names = tuple(first[0][1])
        return {name: [row[i] for _, row in first[1:]] for i, name in enumerate(self.names) if name}

    def _look(self, rows: Any, columns: dict[str, str]) -> None:
        columns.update(dict.fromkeys((name for name in self.names if name), "str"))


class JsonCorpus(Corpus):
    """An object a line; a row is the line and its object."""

    def blocks(self, skip: int = 0, *, via: ReadableFile | None = None) -> Iterator[Block]:
        """As in :class:`Corpus`."""
        for several in _several(itertools.islice(json_lines(via or self.place), skip, None)):
            cells = [[row.get(name) for _, _, row in several] for name in self.text_columns]
            texts = self._texts([number for number, _, _ in several], cells)
            yield Block(texts, [(line, row) for _, line, row in several])

    def records(self, rows: Any) -> Iterator[Mapping[str, Any]]:
        """As in :class:`Corpus`."""
        return (row for _, row in rows)

    def _sample(self) -> dict[str, list[Any]]:
        with self.place.reading():
            first = [row for _, _, row in itertools.islice(json_lines(self.place), BLOCK)]
        if not first:
            raise DataError(f"{self.place} is empty. Expected an object a line.")
        return {name: [row.get(name) for row in first] for name in dict.fromkeys(n for row in first for n in row)}

    def _look(self, rows: Any, columns: dict[str, str]) -> None:
        for _, row in rows:
            for name, cell in row.items():
                columns[name] = wider(columns.get(name), cell)


class ParquetCorpus(Corpus):
    """Parquet; rows are an Arrow table."""

    def blocks(self, skip: int = 0, *, via: ReadableFile | None = None) -> Iterator[Block]:
        """As in :class:`Corpus`."""
        pa = arrow()
        line = 0
        with self._file(via or self.place) as file:
            for batch in file.iter_batches(batch_size=BLOCK):
                table = pa.Table.from_batches([batch]).slice(max(0, skip - line))
                lines = range(line + batch.num_rows - table.num_rows + 1, line + batch.num_rows + 1)
                line += batch.num_rows
                if lines:
                    yield Block(self._texts(lines, [table[name].to_pylist() for name in self.text_columns]), table)

    def records(self, rows: Any) -> Iterator[Mapping[str, Any]]:
        """As in :class:`Corpus`."""
        return iter(rows.to_pylist())

    def _sample(self) -> dict[str, list[Any]]:
        with self.place.reading(), self._file(self.place) as file:
            self.schema = file.schema_arrow
            if len(set(self.schema.names)) < len(self.schema.names):
                raise DataError(f"{self.place}: two columns have the same name.")
            batch = next(file.iter_batches(batch_size=BLOCK), None)
        return {name: [] if batch is None else batch[name].to_pylist() for name in self.schema.names}

    def _look(self, rows: Any, columns: dict[str, str]) -> None:
        columns.update(dict.fromkeys(self.schema.names, ""))

    @contextlib.contextmanager
    def _file(self, source: ReadableFile) -> Iterator[Any]:
        pa = arrow()
        from pyarrow import parquet

        try:
            with source.open("rb") as raw, parquet.ParquetFile(raw) as file:
                yield file
        except pa.ArrowException as exc:
            raise DataError(f"{self.place} cannot be read as Parquet: {exc}.") from exc


KINDS: Mapping[str, type[Corpus]] = {
    ".csv": DelimitedCorpus,
    ".tsv": DelimitedCorpus,
    ".jsonl": JsonCorpus,
    ".ndjson": JsonCorpus,
    ".parquet": ParquetCorpus,
}
"""By the suffix of a file."""


def open_corpus(place: Place, columns: Columns) -> Corpus:
    """The corpus in a file.

    Raises :class:`DataError` if it is not there, of no kind that can be read a row at a time, or without a text column.
    """
    if not place.exists():
        raise DataError(f"There is no file {place}. Expected a corpus: {known_kinds()}.")
    return KINDS[checked_kind(place)](place, columns)


def checked_kind(place: Place) -> str:
    """The suffix that says the format; :class:`DataError` if it is none of these."""
    if kind(place) not in KINDS:
        raise DataError(f"{place}: got {kind(place) or 'no suffix'!r}, expected {known_kinds()}.")
    return kind(place)


def known_kinds() -> str:
    """For messages."""
    return f"one of {', '.join(KINDS)}, all but Parquet also as .gz, .bz2 or .xz"


def arrow() -> Any:
    """pyarrow; :class:`DataError` if it is not installed."""
    try:
        import pyarrow
    except ImportError as exc:
        raise DataError(
            "Parquet needs pyarrow: pip install '.[parquet]' in Bantam's folder; CSV and JSONL do not."
        ) from exc
    return pyarrow


def wider(known: str | None, cell: Any) -> str:
    """What all cells of a column are, of what those before were and this one is; empty if they were all missing."""
    if cell is None:
        return known or ""
    found = type(cell).__name__ if type(cell) in (bool, int, float, str) else "json"
    if found == "int" and not -(2**63) <= cell < 2**63:
        found = "json"
    if not known or found == known:
        return found
    return "float" if {found, known} == {"int", "float"} else "json"


def _several(rows: Iterator[Any]) -> Iterator[list[Any]]:
    while several := list(itertools.islice(rows, BLOCK)):
        yield several
