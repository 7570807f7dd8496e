"""A program runs a model's graph: padded tokens in, logits out. Each runtime is one, in a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol

import numpy as np

from .cores import TextThreads

Feeds = dict[str, np.ndarray]
"""Input name -> int64 ``[texts, tokens]``."""
MAX_PADDED_TOKENS: Mapping[str, int] = MappingProxyType({"cpu": 4096, "cuda": 32768})
"""Device -> bound on rows x tokens of one run: 8 texts of 512 tokens on a CPU, 64 on a GPU. Attention's memory grows
with rows x tokens^2."""


@dataclass(frozen=True)
class Placement:
    """Where a program runs."""

    device: Literal["cpu", "cuda"]
    threads: int
    """CPU threads."""
    micro_batch: int = 1
    """Most texts in one run."""
    text_threads: TextThreads | None = None
    """What a text that runs alone gets of them; by default what the program's own rule says."""


class Program(Protocol):
    """A loaded model. Safe to call from several threads."""

    parallel: int
    """How many runs may be under way at once; more would wait for each other."""
    bucket: int
    """Lengths of which only multiples are run; 1: all are."""
    warmed: bool
    """Whether each shape is run at the start, because its first run costs time."""
    powers_of_two: bool
    """Whether texts are run in powers of two only, because each new shape costs time."""

    providers: tuple[str, ...]
    """What of the runtime runs it, the first one first."""

    def __call__(self, feeds: Feeds, *, runs: int = 1) -> np.ndarray:
        """Logits, float32 ``[texts, labels]``. ``runs``: what the caller has to run in all, this among it."""
