"""Reads what engines have counted: the files of :class:`serving.backend.counts.Counts`.

By what a file says of itself: the version that wrote it has its own copy of the backend, which may be older than this.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from serving.backend.counts import HEADER_BYTES


class Counted(NamedTuple):
    """What a version of a model has done since Triton was started."""

    model: str
    version: str
    values: dict[str, int]


def answered(folder: Path) -> dict[str, int]:
    """Texts that were answered so far, by model."""
    found: Counter[str] = Counter()
    for model, _, values in read(folder):
        found[model] += values.get("texts", 0) + values.get("cache_hits", 0)
    return found


def read(folder: Path) -> list[Counted]:
    """All counts in a folder, by model and version; what cannot be read is left out.

    Those of an engine and of the queue before it (``serving/inline/counts.c``) are in files of their own.
    """
    found: dict[tuple[str, str], dict[str, int]] = {}
    for path in folder.glob("*"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, struct.error):
            content = path.read_bytes()
            header = json.loads(content[:HEADER_BYTES].partition(b"\n")[0])
            values = struct.unpack_from(f"={len(header['names'])}q", content, HEADER_BYTES)
            known = found.setdefault((header["model"], header["version"]), {})
            known.update(zip(header["names"], values, strict=True))
    return [Counted(*key, found[key]) for key in sorted(found)]
