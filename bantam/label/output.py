"""What is written: the rows as they are in the corpus, with what the model says of each, in the output's format."""

from __future__ import annotations

import base64
import bz2
import csv
import datetime
import gzip
import io
import json
import lzma
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from bantam.client.prediction import Description, Prediction
from bantam.label.corpus import Corpus, DelimitedCorpus, JsonCorpus, ParquetCorpus, Scan, arrow, checked_kind
from bantam.label.place import Place
from optimizer.data.rows import whole

PREDICTED = "predicted"
VERSION = "predicted_version"
SEPARATOR = "|"
DIGITS = 7
"""Of a score in text, which is as much as float32 has."""
PACKED: Mapping[str, Callable[[bytes], bytes]] = {
    ".gz": lambda data: gzip.compress(data, mtime=0),  # without the time: equal runs give equal files
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
"""Files of any of these formats, one behind the other, are one."""


class Output(ABC):
    """The output's format. ``replaced``: columns of the corpus that give way to ours of the same name."""

    def __init__(self, corpus: Corpus, scan: Scan, place: Place, description: Description) -> None:
        self._corpus, self._description = corpus, description
        self._pack = PACKED.get(place.suffix.lower(), bytes)
        self._scores = {
            label: PREDICTED if description.task == "regression" else f"score_{label}" for label in description.labels
        }
        self._several, self._version = description.task == "multi_label", description.version or None
        self.added = tuple(dict.fromkeys((PREDICTED, *self._scores.values(), VERSION)))
        self.columns = tuple(scan.columns)
        """Of the corpus."""
        self.replaced = tuple(name for name in self.columns if name in self.added)

    def part(self, rows: Sequence[Any], said: Sequence[Prediction | None]) -> bytes:
        """A finished part of the output: rows of blocks, and what is said of each row."""
        return self._pack(self._encoded(rows, said))

    def put_together(self, parts: Sequence[Place], file: IO[bytes]) -> None:
        """Write the whole output."""
        file.write(self._pack(self._head()))
        for part in parts:
            with part.reading(), part.open("rb") as source:
                shutil.copyfileobj(source, file, 1 << 20)

    @abstractmethod
    def _encoded(self, rows: Sequence[Any], said: Sequence[Prediction | None]) -> bytes: ...

    def _head(self) -> bytes:
        return b""

    def _values(self, prediction: Prediction | None) -> list[Any]:
        """What is added to a row, in the order of ``added``."""
        if prediction is None:
            return [None] * len(self.added)
        scores = [float(f"{score:.{DIGITS}g}") for score in prediction.scores.values()]
        if self._description.task == "regression":
            return [*scores, self._version]
        labels: Any = prediction.labels if self._several else prediction.labels[0]
        return [labels, *scores, self._version]


class DelimitedOutput(Output):
    """CSV with commas, or TSV; several labels of a row are separated by ``|``."""

    def __init__(self, corpus: Corpus, scan: Scan, place: Place, description: Description) -> None:
        super().__init__(corpus, scan, place, description)
        self._delimiter = "\t" if checked_kind(place) == ".tsv" else ","
        # A table keeps the columns that have no name too.
        names = corpus.names if isinstance(corpus, DelimitedCorpus) else self.columns
        self._kept = [i for i, name in enumerate(names) if name not in self.added]
        self._names = [names[i] for i in self._kept]

    def _head(self) -> bytes:
        return self._lines([[*self._names, *self.added]])

    def _encoded(self, rows: Sequence[Any], said: Sequence[Prediction | None]) -> bytes:
        cells = (row for block in rows for row in self._cells(block))
        return self._lines([[*row, *self._values(each)] for row, each in zip(cells, said, strict=True)])

    def _values(self, prediction: Prediction | None) -> list[Any]:
        first, *more = super()._values(prediction)
        return [SEPARATOR.join(first) if isinstance(first, list) else first, *more]

    def _cells(self, block: Any) -> Iterator[list[Any]]:
        if isinstance(self._corpus, DelimitedCorpus):
            if len(self._kept) == len(self._corpus.names):
                return iter(block)
            return ([row[i] for i in self._kept] for row in block)
        return ([_cell(row.get(name)) for name in self._names] for row in self._corpus.records(block))

    def _lines(self, rows: Sequence[Sequence[Any]]) -> bytes:
        text = io.StringIO()
        plain = csv.writer(text, delimiter=self._delimiter, lineterminator="\n")
        # csv quotes a line feed but no carriage return, which readers take for the end of a row.
        quoted = csv.writer(text, delimiter=self._delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
        for row in rows:
            (quoted if any(isinstance(cell, str) and "\r" in cell for cell in row) else plain).writerow(row)
        return _utf8(text.getvalue())


class JsonOutput(Output):
    """An object a line. A line of JSON that was read stays as it is, with more behind it."""

    def _encoded(self, rows: Sequence[Any], said: Sequence[Prediction | None]) -> bytes:
        lines = (line for block in rows for line in self._objects(block))
        added = (dict(zip(self.added, self._values(each), strict=True)) for each in said)
        return _utf8("".join(map(_joined, lines, added)))

    def _objects(self, block: Any) -> Iterator[str]:
        if isinstance(self._corpus, JsonCorpus):
            for line, row in block:
                ours = [name for name in self.added if name in row]
                yield _json({k: v for k, v in row.items() if k not in ours}) if ours else line.strip()
        else:
            for row in self._corpus.records(block):
                yield _json({name: cell for name, cell in row.items() if name not in self.added})


class ParquetOutput(Output):
    """Parquet, a row group a part. What was Parquet keeps its types; JSON's columns get theirs from all their cells."""

    def __init__(self, corpus: Corpus, scan: Scan, place: Place, description: Description) -> None:
        super().__init__(corpus, scan, place, description)
        pa = arrow()
        types = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64()}
        fields = (
            [field for field in corpus.schema if field.name not in self.added]
            if isinstance(corpus, ParquetCorpus)
            else [(n, types.get(kind, pa.string())) for n, kind in scan.columns.items() if n not in self.added]
        )
        self._kinds = scan.columns
        labels = pa.list_(pa.string()) if self._several else pa.string()
        first = [] if description.task == "regression" else [(PREDICTED, labels)]
        scores = [(name, pa.float32()) for name in self._scores.values()]
        metadata = corpus.schema.metadata if isinstance(corpus, ParquetCorpus) else None
        self._own = pa.schema(fields)
        self._schema = pa.schema([*self._own, *pa.schema([*first, *scores, (VERSION, pa.string())])], metadata=metadata)

    def _encoded(self, rows: Sequence[Any], said: Sequence[Prediction | None]) -> bytes:
        pa = arrow()
        from pyarrow import parquet

        values = list(zip(*map(self._values, said), strict=True))
        added = dict(zip(self.added, values, strict=True))
        tables = [self._table(block) for block in rows]
        columns = {name: pa.chunked_array([t[name] for t in tables]).combine_chunks() for name in self._own.names}
        columns |= {name: pa.array(cells, self._schema.field(name).type) for name, cells in added.items()}
        table = pa.Table.from_arrays([columns[name] for name in self._schema.names], schema=self._schema)
        sink = io.BytesIO()
        parquet.write_table(table, sink)
        return sink.getvalue()

    def _table(self, block: Any) -> Any:
        if isinstance(self._corpus, ParquetCorpus):
            return block.select(self._own.names)
        pa = arrow()
        rows = list(self._corpus.records(block))
        return pa.Table.from_pydict(
            {name: [self._typed(name, row.get(name)) for row in rows] for name in self._own.names}, schema=self._own
        )

    def _typed(self, name: str, cell: Any) -> Any:
        if cell is None or self._kinds[name] in ("bool", "int"):
            return cell
        if self._kinds[name] == "float":
            return float(cell)
        text = cell if self._kinds[name] == "str" else _json(cell)
        return text if text.isascii() else whole(text)

    def put_together(self, parts: Sequence[Place], file: IO[bytes]) -> None:
        """As in :class:`Output`."""
        from pyarrow import parquet

        with parquet.ParquetWriter(file, self._schema) as writer:
            for part in parts:
                with part.reading(), part.open("rb") as source:
                    writer.write_table(parquet.read_table(source))


KINDS: Mapping[str, type[Output]] = {
    ".csv": DelimitedOutput,
    ".tsv": DelimitedOutput,
    ".jsonl": JsonOutput,
    ".ndjson": JsonOutput,
    ".parquet": ParquetOutput,
}
"""By the suffix of a file."""


def _cell(cell: Any) -> Any:
    """As CSV has it."""
    if cell is None or (isinstance(cell, str | int | float) and not isinstance(cell, bool)):
        return cell
    made = json.loads(_json(cell))
    return made if isinstance(made, str) else _json(cell)


def _utf8(text: str) -> bytes:
    """With halves of characters, which JSON can carry and UTF-8 cannot, replaced."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return whole(text).encode()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_said)


def _said(value: Any) -> Any:
    """What JSON has no word for, as Parquet's dates, decimals and bytes."""
    if isinstance(value, datetime.date | datetime.datetime | datetime.time):
        return value.isoformat()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _joined(line: str, added: Mapping[str, Any]) -> str:
    """An object's line with more in it."""
    start = line[:-1].rstrip()
    return f"{start}{'' if start == '{' else ', '}{_json(added)[1:]}\n"
