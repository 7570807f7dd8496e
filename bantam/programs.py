"""What other programs of this machine say. Standard library only."""

from __future__ import annotations

import subprocess


def output(*command: str) -> str | None:
    """What a program prints, stripped; None if it is not there, fails, takes over ten seconds or prints nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
