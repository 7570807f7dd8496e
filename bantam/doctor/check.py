"""One finding of the doctor, and how it asks other programs. Standard library only."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Literal

SETUP = "Run `make setup`."


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    status: Literal["ok", "missing", "warning"]
    """missing: not there; warning: there, but it will not do, or not well."""
    found: str
    advice: str = ""
    """What to do, and what the thing is needed for; empty if all is well."""


def output(*command: str) -> str | None:
    """What a program prints, stripped; None if it is not there, fails, takes over ten seconds or prints nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
