"""Times of a search that goes on, kept in the run's folder until it has ended: a killed one measures no rung twice.

A run that begins anew measures anew, which is why they are not in the store.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from bantam.errors import StageError
from bantam.files import replacing_file, write_text, writing
from bantam.run.noise import Noise, Sample
from bantam.run.timing import Compared, Timing


@dataclass(frozen=True)
class Times:
    """What one rung found out."""

    timings: Mapping[str, Timing]
    """By the name of the variant."""
    answers: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """What servers answered on dev, probabilities ``[rows, labels]``; of the last rung alone."""
    isolated_because: str = ""
    """As in :class:`bantam.run.state.Run`."""


@dataclass(frozen=True)
class KeptTimes:
    """Times in two files a key, beside ``path`` and named like it: the times, and what servers answered."""

    path: Path

    def get_or_measure(self, key: str, measure: Callable[[], Times]) -> tuple[Times, float | None]:
        """The times of this key, and how many seconds ago they were kept; else ``measure`` is asked, and None.

        What cannot be read is measured again. Times with failed requests are not kept: the next try may have none.
        Raises what ``measure`` raises, and :class:`DiskFullError`.
        """
        times, answers = (self.path.with_name(f"{self.path.name}-{key[:16]}.{kind}") for kind in ("json", "npz"))
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, BadZipFile):
            raw = json.loads(times.read_text(encoding="utf-8"))
            with np.load(answers) as kept:
                return _read(raw, list(kept.values())), time.time() - times.stat().st_mtime
        found = measure()
        if not any(timing.failed for timing in found.timings.values()):
            with writing(times, StageError):
                with replacing_file(answers) as path, path.open("wb") as file:
                    np.savez(file, *found.answers.values())
                write_text(times, json.dumps(_written(found)))
        return found, None

    def forget(self) -> None:
        """The run has ended: its report has the times."""
        for path in self.path.parent.glob(f"{self.path.name}-*"):
            path.unlink()


def _written(found: Times) -> dict[str, Any]:
    return {
        "timings": {name: _timing(timing) for name, timing in found.timings.items()},
        "answered": list(found.answers),
        "isolated_because": found.isolated_because,
    }


def _read(raw: Mapping[str, Any], answers: list[NDArray[np.float32]]) -> Times:
    timings = {name: _timing_of(**timing) for name, timing in raw["timings"].items()}
    return Times(timings, dict(zip(raw["answered"], answers, strict=True)), raw["isolated_because"])


def _timing(timing: Timing) -> dict[str, Any]:
    return vars(timing) | {
        "in_process": _compared(timing.in_process),
        "served": _compared(timing.served),
        "noise": timing.noise and timing.noise.rounds,
    }


def _timing_of(*, in_process: Any, served: Any, noise: Any, **figures: Any) -> Timing:
    heard = noise and Noise(tuple(tuple(Sample(*one) for one in each) for each in noise))
    return Timing(_compared_of(in_process), _compared_of(served), noise=heard, **figures)


def _compared(compared: Compared | None) -> dict[str, Any] | None:
    if compared is None:
        return None
    return {
        "own_ms": compared.own_ms.tolist(),
        "anchor_ms": compared.anchor_ms.tolist(),
        "group": compared.group,
        "anchor_p50_ms": compared.anchor_p50_ms,
    }


def _compared_of(raw: Mapping[str, Any] | None) -> Compared | None:
    if raw is None:
        return None
    own, anchor = (np.array(raw[which], dtype=np.float64) for which in ("own_ms", "anchor_ms"))
    return Compared(own, anchor, raw["group"], raw["anchor_p50_ms"])
