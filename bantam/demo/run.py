"""``bantam demo``: texts, reports and files for the page of :mod:`bantam.demo`, and the page itself until Ctrl-C."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from bantam.artifact import Text
from bantam.client.transport import Target
from bantam.demo.batch import Upload
from bantam.demo.request import DemoRequest
from bantam.demo.served import ServedPair
from bantam.errors import BantamError, DataError
from bantam.report.file import read_report, reports
from bantam.report.schema import Report
from bantam.report.text import served_name
from bantam.run.latency import draw_texts
from optimizer.data import Columns, Dataset, load_dataset
from optimizer.data.columns import find_texts
from optimizer.data.read import read_table
from serving.ports import free_ports

Log = Callable[[str], None]
DATA = "goemotions-ekman"
LOAD_TEXTS = 200
EXAMPLES, LONGEST_EXAMPLE = 6, 90
"""How many examples, of at most how many characters."""


def run(request: DemoRequest, log: Log) -> Iterator[str]:
    """Open the page, yield its address, and keep it open until an exception such as KeyboardInterrupt comes.

    Raises :class:`UserError` for an address or data that make no sense, :class:`ServerError` for a port that is taken.
    """
    from bantam.demo.page import build, open_page
    from bantam.demo.tabs import Sources

    Target.checked(request.address, request.model, 1)
    (port,) = free_ports(request.host, {"the page": request.port}).values()
    data = demo_data(request, log)
    texts = draw_texts(data.splits["test"].texts, LOAD_TEXTS)
    sources = Sources(texts, examples(data), read_upload, lambda: newest_report(request.build, request.model))
    blocks = build(ServedPair(request.address, request.model), sources)
    try:
        open_page(blocks, request.host, port)
        yield f"http://{request.host}:{port}/"
        Event().wait()
    finally:
        blocks.close(verbose=False)


def examples(data: Dataset) -> list[Text]:
    """Texts of the test split, short enough to be read at a glance: by turns of each label, those that have it alone;
    of a regression, or where nobody knows what is right, any.
    """
    texts = data.splits["test"].texts
    short = np.array([len("".join(text)) <= LONGEST_EXAMPLE for text in texts])
    found = [
        draw_texts(tuple(texts[row] for row in np.flatnonzero(short & rows)), EXAMPLES) for rows in _by_label(data)
    ]
    by_turns = [several[turn] for turn in range(EXAMPLES) for several in found if turn < len(several)]
    return by_turns[:EXAMPLES]


def _by_label(data: Dataset) -> list[np.ndarray]:
    """Which rows of the test split have each label, and no other."""
    targets = data.splits["test"].targets
    if data.task == "regression" or not data.labelled:
        return [np.ones(len(targets), dtype=np.bool_)]
    if targets.ndim == 1:
        return [targets == label for label in range(len(data.labels))]
    return [(column == 1) & (targets.sum(axis=1) == 1) for column in targets.T]


def read_upload(path: Path, columns: Sequence[str]) -> Upload:
    """Read a file of texts, or with two ``columns`` of pairs; each is the name of a text column, its number from 1 in a
    file without a header, or empty: then the usual names are tried, and a file of no other columns needs no header.

    Raises :class:`DataError` if the file or a column cannot be had.
    """
    table = read_table(path)
    names = list(table.columns)
    if all(column.isdecimal() and column not in names for column in columns):
        for column in columns:
            if not 1 <= int(column) <= len(names):
                raise DataError(f"{path} has no column {column}; it has {len(names)}. Count from 1, or give a name.")
        return _without_header(table.columns, [int(column) - 1 for column in columns])
    if unknown := [column for column in columns if column and column not in names]:
        raise DataError(f"{path} has no column {unknown[0]!r}. Columns: {', '.join(names)}.")
    text, pair = (*columns, "")[:2]
    try:
        first, second, _ = find_texts(table, Columns(text=text or None, pair=pair or None))
    except DataError as exc:
        if any(columns) or len(names) > len(columns):
            raise DataError(f"{path}: which column is the text? Name it. Columns: {', '.join(names)}.") from exc
        return _without_header(table.columns, range(len(columns)))
    if len(columns) == 1:
        return Upload(table.columns, (first,))
    if second is None:
        raise DataError(f"{path}: what goes with {first!r}? Name both text columns. Columns: {', '.join(names)}.")
    return Upload(table.columns, (first, second))


def _without_header(columns: Mapping[str, Sequence[Any]], texts: Sequence[int]) -> Upload:
    """What was taken for the header is the first row."""
    named = {f"column {number}": [first, *rest] for number, (first, rest) in enumerate(columns.items(), start=1)}
    return Upload(named, tuple(f"column {text + 1}" for text in texts))


def newest_report(build: Path, model: str) -> Report | None:
    """The newest report of a run that published the model; None if there is none that can be read."""
    for path in reports(build):
        with contextlib.suppress(BantamError):
            report = read_report(path)
            if served_name(report) == model:
                return report
    return None


def demo_data(request: DemoRequest, log: Log) -> Dataset:
    """The data set that was asked for, that of the report, or a bundled one."""
    report = newest_report(request.build, request.model)
    if request.data or not report:
        return load_dataset(request.data or DATA)
    try:
        said = report.data_source.columns if report.data_source else None
        return load_dataset(report.data, columns=Columns(**said.model_dump()) if said else Columns())
    except BantamError as exc:
        log(f"{exc}\nThe examples are from {DATA}; --data takes them from elsewhere.")
        return load_dataset(DATA)
