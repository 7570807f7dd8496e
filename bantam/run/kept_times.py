"""Times of a search that goes on, kept in the run's folder until it has ended: a killed one measures no rung twice.

A run that begins anew measures anew, which is why they are not in the store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bantam.errors import StageError
from bantam.files import write_text, writing
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
    """A file of times by key."""

    path: Path

    def get_or_measure(self, key: str, measure: Callable[[], Times]) -> tuple[Times, bool]:
        """The times of this key, and whether they were there; else ``measure`` is asked, and its answer kept.

        What cannot be read is measured again. Raises what ``measure`` raises, and :class:`DiskFullError`.
        """
        known: dict[str, Any] = {}
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(self.path.read_text(encoding="utf-8"))
            return _read(known[key]), True
        found = measure()
        with writing(self.path, StageError):
            write_text(self.path, json.dumps(known | {key: _written(found)}))
        return found, False

    def forget(self) -> None:
        """The run has ended: its report has the times."""
        self.path.unlink(missing_ok=True)


def _written(found: Times) -> dict[str, Any]:
    return {
        "timings": {name: _timing(timing) for name, timing in found.timings.items()},
        "answers": {name: answers.tolist() for name, answers in found.answers.items()},
        "isolated_because": found.isolated_because,
    }


def _read(raw: Mapping[str, Any]) -> Times:
    return Times(
        timings={name: _timing_of(**timing) for name, timing in raw["timings"].items()},
        answers={name: np.array(answers, dtype=np.float32) for name, answers in raw["answers"].items()},
        isolated_because=raw["isolated_because"],
    )


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
