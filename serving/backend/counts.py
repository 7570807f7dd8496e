"""What an engine has done, in memory that the watch of ``bantam serve`` can read. Standard library only."""

from __future__ import annotations

import json
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HEADER_BYTES = 1024
"""Where the numbers begin in a file; before it is a line of JSON that says what they are."""
RUN_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Runs of the model are counted by their texts: up to so many, and more."""
PROBE = "\ue000bantam watch "
"""How a text begins that the watch of ``bantam serve`` asks: the model answers it, and it is neither counted nor kept
by a cache. With a character of private use, which nobody's texts begin with by accident."""
TEXTS, TOKENS, CUT, HITS, MISSES, RUNS = range(6)
NAMES = (
    *("texts", "tokens", "cut_texts", "cache_hits", "cache_misses"),
    *(f"runs_of_{size}" for size in RUN_SIZES),
    "runs_of_more",
)


def is_probe(text: str | tuple[str, str]) -> bool:
    """Whether a text, or a pair of them, is the watch's own."""
    return (text if isinstance(text, str) else text[0]).startswith(PROBE)


class Work(NamedTuple):
    """What the model did for some texts."""

    tokens: int
    cut: int
    """Texts that had more tokens than the model takes."""
    runs: Sequence[int]
    """How many texts went through the model together, each time that it ran."""


class Counts:
    """Numbers that only grow. One thread adds; others, and other processes, may read meanwhile."""

    def __init__(self, values: memoryview | None = None) -> None:
        """``values``: zeros or older counts, as many as ``NAMES``, of 8 bytes; its own if absent."""
        self._values = memoryview(bytearray(8 * len(NAMES))).cast("q") if values is None else values

    @classmethod
    def shared(cls, path: Path, model: str, version: str) -> Counts:
        """Counts in a file. What the same version of the model has counted before in this file stays: it goes on."""
        header = json.dumps({"model": model, "version": version, "names": NAMES}).encode() + b"\n"
        size = HEADER_BYTES + 8 * len(NAMES)
        with path.open("a+b") as file:
            # Zeros, and not a hole: on a full disk this raises OSError, and a hole would end the process with SIGBUS.
            file.write(bytes(max(size - file.tell(), 0)))
            file.flush()
            memory = mmap.mmap(file.fileno(), size)
        memory[: len(header)] = header
        return cls(memoryview(memory)[HEADER_BYTES:].cast("q"))

    def add(self, texts: int, work: Work) -> None:
        """Texts that went through the model, and what that took."""
        values = self._values
        values[TEXTS] += texts
        values[TOKENS] += work.tokens
        values[CUT] += work.cut
        for size in work.runs:
            # 1, 2, 3 to 4, 5 to 8, ...
            values[RUNS + min((size - 1).bit_length(), len(RUN_SIZES))] += 1

    def looked_up(self, hits: int, misses: int) -> None:
        """Texts that a cache was asked for."""
        self._values[HITS] += hits
        self._values[MISSES] += misses

    def as_dict(self) -> dict[str, int]:
        """By name."""
        return dict(zip(NAMES, self._values, strict=True))
