"""Scores the texts of a file through the server, and writes the file again with labels and scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bantam.client.classifier import Classifier
from bantam.client.texts import Text
from bantam.report.file import write_files
from bantam.spreadsheet import to_csv

CHUNK = 256
"""Texts between two steps of the progress bar: several requests, under way together."""
LABELS = "predicted"
SEPARATOR = "|"


@dataclass(frozen=True)
class Upload:
    """A file that was read."""

    columns: Mapping[str, Sequence[Any]]
    """By name, of equal length, in the file's order."""
    texts: tuple[str, ...]
    """Which of them holds the texts; two if these are pairs."""

    def rows(self) -> list[Text]:
        """The texts, or the pairs; empty where a cell is."""
        first, *second = [["" if cell is None else str(cell) for cell in self.columns[name]] for name in self.texts]
        return [*zip(first, *second, strict=True)] if second else [*first]


ReadUpload = Callable[[Path, Sequence[str]], Upload]
"""Reads a file, the text column by what the user said of it (``""``: to be found), or both of pairs; raises
:class:`BantamError`."""


@dataclass(frozen=True)
class ScoredFile:
    """All rows with what the model says of them."""

    path: Path
    """The CSV to download."""
    columns: tuple[str, ...]
    rows: list[list[Any]]
    texts: tuple[str, ...]
    """Which column was scored, or which two."""
    seconds: float
    """From the first request to the last answer."""


def score_file(
    client: Classifier, upload: Upload, target: Path, on_progress: Callable[[int, int], object]
) -> ScoredFile:
    """Score every row, and write ``target``: the file's own columns, the labels, and the score of each label, or of a
    regression its score alone; what a spreadsheet would run as a formula is written as text.

    ``on_progress`` gets texts done and texts in all. Raises what a client's call raises, and what
    :func:`bantam.report.file.write_files` does.
    """
    texts = upload.rows()
    description = client.describe()
    regression = description.task == "regression"
    scores = {label: LABELS if regression else f"score_{label}" for label in description.labels}
    added: dict[str, list[Any]] = {LABELS: [], **{name: [] for name in scores.values()}}
    on_progress(0, len(texts))
    began = time.perf_counter()
    for start in range(0, len(texts), CHUNK):
        for prediction in client(texts[start : start + CHUNK]):
            if not regression:
                added[LABELS].append(SEPARATOR.join(prediction.labels))
            for label, score in prediction.scores.items():
                added[scores[label]].append(round(score, 4))
        on_progress(min(start + CHUNK, len(texts)), len(texts))
    seconds = time.perf_counter() - began
    # Columns of an earlier scoring are replaced, not doubled.
    columns: dict[str, Sequence[Any]] = {**upload.columns, **added}
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    # The byte order mark tells spreadsheets that it is UTF-8.
    write_files({target: "\N{ZERO WIDTH NO-BREAK SPACE}" + to_csv([tuple(columns), *rows])})
    return ScoredFile(target, tuple(columns), rows, upload.texts, seconds)
