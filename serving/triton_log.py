"""Reads what Triton writes to its log, line by line, and keeps the file small."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from serving.tritonserver import ENTRY

MOST_BYTES = 16_000_000
"""A log that is larger is emptied: it may lie in memory, and Triton runs for months."""
LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "fatal"}


class LogReader:
    """Gives each new line of a log to ``take``, if there is one: its level and what it says."""

    def __init__(self, take: Callable[[str, str], None] | None) -> None:
        self._take = take
        self._path: Path | None = None
        self._read = 0
        self._level = "info"

    def read(self, path: Path) -> None:
        """Whole lines that are new; all of them if it is another file than the last time."""
        if path != self._path:
            self._path, self._read, self._level = path, 0, "info"
        with contextlib.suppress(OSError):  # it is not there yet, or no more
            if path.stat().st_size > self._read:
                with path.open("rb") as file:
                    file.seek(self._read)
                    new, end, _ = file.read().rpartition(b"\n")
                self._read += len(new) + len(end)
                for line in new.decode("utf-8", "replace").splitlines():
                    self._one(line)
            if self._read > MOST_BYTES:
                os.truncate(path, 0)  # Triton appends: it writes at the new end
                self._read = 0

    def _one(self, line: str) -> None:
        entry = ENTRY.match(line)
        if entry:
            self._level = LEVELS[entry["level"]]
        text = entry["text"].removeprefix('"').removesuffix('"') if entry else line.strip()
        if text and self._take:
            self._take(self._level, text)  # what follows an entry without a head of its own belongs to it
