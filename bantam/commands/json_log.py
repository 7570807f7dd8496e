"""Lines of a log as JSON documents, one a line, on standard error."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

WARNING = "WARNING: "


def log(line: str) -> None:
    """A line of Bantam's own."""
    level, text = ("warning", line.removeprefix(WARNING)) if line.startswith(WARNING) else ("info", line)
    _write("bantam", level, text.strip())


def error(message: str) -> None:
    """Why it ends."""
    _write("bantam", "error", message)


def triton(level: str, text: str) -> None:
    """A line of Triton's log."""
    _write("triton", level, text)


def _write(source: str, level: str, message: str) -> None:
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    document = {"time": time, "level": level, "source": source, "message": message}
    sys.stderr.write(json.dumps(document, ensure_ascii=False) + "\n")
    sys.stderr.flush()
