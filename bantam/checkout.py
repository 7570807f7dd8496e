"""Where Bantam's checkout is, and the two environments in it. Standard library only.

A wheel holds the client alone: what trains, serves and measures belongs to a checkout, with its environments beside it.
"""

from __future__ import annotations

import os
from pathlib import Path

OPTIMIZER, SERVING = ".venv", ".venv-serving"
"""Folders of the environment that optimizes, measures and asks, and of the one that serves."""


def root() -> Path | None:
    """The folder of the checkout that this package is in; None if it was installed from a wheel."""
    folder = Path(__file__).resolve().parents[1]
    return folder if (folder / "Makefile").is_file() and (folder / "serving").is_dir() else None


def site_packages(environment: Path) -> Path | None:
    """Where an environment's packages are; None if there is no such environment."""
    pattern = "Lib/site-packages" if os.name == "nt" else "lib/python3*/site-packages"
    return next(environment.glob(pattern), None)
