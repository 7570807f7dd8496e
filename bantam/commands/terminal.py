"""What the commands share of the terminal: progress on standard error, a report, and how they are ended."""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from bantam.report.schema import Report

progress = Console(stderr=True, highlight=False)


def log(line: str) -> None:
    """A line of progress."""
    progress.print(line, markup=False, soft_wrap=True)


def typed() -> str:
    """The command line as the user typed it."""
    return shlex.join(["bantam", *sys.argv[1:]])


def stop_on_sigterm() -> None:
    """End as on Ctrl-C when a service manager sends SIGTERM, or when the terminal is closed (SIGHUP).

    Not by SIGINT, which is ignored in what a script starts in the background. What `nohup` starts outlives it.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
    if hang_up is not None and signal.getsignal(hang_up) is not signal.SIG_IGN:
        signal.signal(hang_up, interrupt)


def show_report(report: Report, folder: Path, as_json: bool, *, whole: bool = False) -> None:
    """Print a report: as JSON, or as a table with the path of its page."""
    from bantam.report.file import REPORT_HTML, to_json
    from bantam.report.table import show

    if as_json:
        print(to_json(report), end="")
    else:
        show(report, Console(), html=folder / REPORT_HTML, whole=whole)
