"""Reads what Triton writes to its log, line by line, and keeps the file small; and writes the watch's own log."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from bantam.errors import ServerError
from serving.tritonserver import ENTRY

MOST_BYTES = 16_000_000
"""A log that is larger is emptied: it may lie in memory, and Triton runs for months."""
LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "fatal"}
TICK_S = 0.1
CLOSE_S = 5.0
"""How long the last lines may take to be written; who does not read them by then does not get them."""


class LogReader:
    """Gives each new line of a log to ``take``, if there is one: its level and what it says."""

    def __init__(self, take: Callable[[str, str], None] | None) -> None:
        self._take = take
        self._path: Path | None = None
        self._file: BinaryIO | None = None
        """Kept open: Triton's last lines can be read when the folder of its log has been removed."""
        self._level = "info"
        self._rest = b""

    def read(self, path: Path | None) -> None:
        """Whole lines that are new. If it is another file than the last time, or none, what is left of that one too."""
        if path != self._path:
            self._finish()
            self._path = path
        if self._file is None and path is not None:
            with contextlib.suppress(OSError):  # it is not there yet, or no more
                self._file = path.open("r+b", buffering=0)
        if self._file is None:
            return
        lines, end, self._rest = (self._rest + self._file.read()).rpartition(b"\n")
        self._all(lines + end)
        if self._file.tell() > MOST_BYTES:
            os.truncate(self._file.fileno(), 0)  # Triton appends: it writes at the new end
            self._file.seek(0)

    def _finish(self) -> None:
        if self._file is not None:
            with self._file:
                self._all(self._rest + self._file.read())
        self._path, self._file, self._level, self._rest = None, None, "info", b""

    def _all(self, lines: bytes) -> None:
        for line in lines.decode("utf-8", "replace").splitlines():
            entry = ENTRY.match(line)
            if entry:
                self._level = LEVELS[entry["level"]]
            text = entry["text"].removeprefix('"').removesuffix('"') if entry else line.strip()
            if text and self._take:
                self._take(self._level, text)  # what follows an entry without a head of its own belongs to it


class Journal(threading.Thread):
    """Writes a log in a thread of its own, so that who does not read it stops nothing else.

    ``log`` is given the lines of :meth:`say`; ``entries``, if there is one, those of Triton's log, each with its level.
    ``find`` says where that is, and raises :class:`ServerError` while there is none.
    """

    def __init__(
        self, log: Callable[[str], None], entries: Callable[[str, str], None] | None, find: Callable[[], Path]
    ) -> None:
        super().__init__(name="log", daemon=True)
        self._log = log
        self._find = find
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = LogReader(entries)
        self._stopped = threading.Event()

    def say(self, line: str) -> None:
        """Have a line written soon."""
        self._said.put(line)

    def run(self) -> None:
        """Until :meth:`close`."""
        while not self._stopped.wait(TICK_S):
            path = None
            with contextlib.suppress(ServerError):
                path = self._find()
            self._write(path)
        self._write(None)

    def close(self) -> None:
        """Have what is left written, unless nobody reads it."""
        self._stopped.set()
        if self.is_alive():
            self.join(CLOSE_S)

    def _write(self, path: Path | None) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            self._reader.read(path)
        with contextlib.suppress(OSError, ValueError):
            while not self._said.empty():
                self._log(self._said.get())
