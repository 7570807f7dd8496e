"""Bantam's own engine, the file that is copied into each served model; run by the same driver as all others."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.bench.driver import Job

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))


def load(folder: Path, job: Job) -> Callable[[list[str]], NDArray[np.float32]]:
    """The engine on a variant's folder; ``micro_batch`` as in the recipe."""
    from serving.backend.engine import Engine

    given = job.options.get("text_threads")
    return Engine(folder, threads=job.threads, micro_batch=job.options["micro_batch"], text_threads=given).probabilities
