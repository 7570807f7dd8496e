"""Ends the servers of a bench that was killed: a stopped process does not hear that its parent is gone.

The bench starts this file as a script and tells it, a line each, which processes it has started. When the pipe closes,
however the bench ended, those that are left are killed with all that they have started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from types import TracebackType
from typing import Self

import psutil


class Guardian:
    """A context manager in the bench; see above."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__], stdin=subprocess.PIPE, start_new_session=True, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def watch(self, pid: int) -> None:
        """Kill this process when the bench ends. Its start is noted too: a number can be given out again."""
        assert self._process.stdin is not None
        print(pid, psutil.Process(pid).create_time(), file=self._process.stdin, flush=True)


def main() -> None:
    """Wait for the end of the bench, then clean up."""
    for line in list(sys.stdin):
        pid, created = line.split()
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(pid))
            if process.create_time() == float(created):
                kill(process)


def kill(process: psutil.Process) -> None:
    """Kill a process, its children and its group."""
    for each in [*process.children(recursive=True), process]:
        with contextlib.suppress(psutil.Error):
            each.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
