"""``bantam demo``: texts, reports and files for the page of :mod:`bantam.demo`, and the page itself until Ctrl-C."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

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
    data = _data(request, log)
    texts = draw_texts(data.splits["test"].single, LOAD_TEXTS)
    sources = Sources(texts, examples(data), read_upload, lambda: newest_report(request.build, request.model))
    blocks = build(ServedPair(request.address, request.model), sources)
    try:
        open_page(blocks, request.host, port)
        yield f"http://{request.host}:{port}/"
        Event().wait()
    finally:
        blocks.close(verbose=False)


def examples(data: Dataset) -> list[str]:
    """Texts of the test split that have one label, by turns of each label, short enough to be read at a glance."""
    split = data.splits["test"]
    single = split.targets.ndim == 1
    found: list[list[str]] = []
    for label in range(len(data.labels)):
        alone = split.targets == label if single else (split.targets[:, label] == 1) & (split.targets.sum(axis=1) == 1)
        texts = [split.single[row] for row in np.flatnonzero(alone) if len(split.single[row]) <= LONGEST_EXAMPLE]
        found.append(draw_texts(tuple(texts), EXAMPLES))
    by_turns = [texts[turn] for turn in range(EXAMPLES) for texts in found if turn < len(texts)]
    return by_turns[:EXAMPLES]


def read_upload(path: Path, column: str) -> Upload:
    """Read a file of texts; ``column`` is the name of the text column, its number from 1 in a file without a header, or
    empty: then the usual names are tried, and a file of one column needs no header.

    Raises :class:`DataError` if the file or the column cannot be had.
    """
    table = read_table(path)
    names = list(table.columns)
    if column.isdecimal() and column not in names:
        if not 1 <= int(column) <= len(names):
            raise DataError(f"{path} has no column {column}; it has {len(names)}. Count from 1, or give a name.")
        return _without_header(table.columns, int(column) - 1)
    try:
        return Upload(table.columns, find_texts(table, Columns(text=column or None))[0])
    except DataError:
        if column or len(names) > 1:
            raise
        return _without_header(table.columns, 0)


def _without_header(columns: Mapping[str, Sequence[Any]], text: int) -> Upload:
    """What was taken for the header is the first row."""
    named = {f"column {number}": [first, *rest] for number, (first, rest) in enumerate(columns.items(), start=1)}
    return Upload(named, f"column {text + 1}")


def newest_report(build: Path, model: str) -> Report | None:
    """The newest report of a run that published the model; None if there is none that can be read."""
    for path in reports(build):
        with contextlib.suppress(BantamError):
            report = read_report(path)
            if served_name(report) == model:
                return report
    return None


def _data(request: DemoRequest, log: Log) -> Dataset:
    """The data set that was asked for, that of the report, or a bundled one."""
    report = newest_report(request.build, request.model)
    if request.data or not report:
        return load_dataset(request.data or DATA)
    try:
        return load_dataset(report.data)
    except BantamError as exc:
        log(f"{exc}\nThe examples are from {DATA}; --data takes them from elsewhere.")
        return load_dataset(DATA)
