"""One finding of the doctor. Standard library only."""

from __future__ import annotations

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
