"""Where the browser is that opens pages of ours, in tests and in benchmarks."""

from __future__ import annotations

import os
import shutil


def find_chromium() -> str | None:
    """Path of Chromium or Chrome: ``$CHROMIUM`` if set, or the first one on the PATH."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
