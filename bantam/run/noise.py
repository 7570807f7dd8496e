"""How quiet the machine is: a fixed piece of work, timed again and again between what is measured.

It hashes a few MB in one thread a core, so that whatever takes any core away is seen. What says that something else ran
is how long the threads waited for a core: times alone do not, as on a machine that is busy all the time they are long,
but alike. How much they vary is what shows when a virtual machine's host is busy, of which its own clocks know nothing.

Measured with 60 samples, six times each, on a virtual Intel Xeon (2 of its cores; all 16): quiet, threads waited for at
most 0.5% (0.7%) of the time, and the 90th percentile was 1.13 to 1.91 (1.14 to 1.47) times the median. With a loop on
each core they waited 44% to 51% (45% to 46%), with a single one 38% (5%), with bursts of 50 ms every half second on
each core 5% to 8% (2.2% to 4.3%); the spread was 1.02 to 2.4, and so tells little. See benchmarks/noise.py.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

MOST_WAITED = 0.02
MOST_SPREAD = 2.0
"""What a quiet machine keeps; see above."""
BYTES = bytes(8_000_000)
SETTLE_S = 0.02
"""Before it is timed: runtimes let their threads spin for a while after a text. Right after passes of PyTorch the work
waited for 13% of its time, 20 or 50 ms later for 0.4%."""


class Sample(NamedTuple):
    """One run of the work."""

    wall_ms: float
    """Of the slowest thread."""
    waited: float
    """Share of the threads' time in which they were not computing."""


def sample(threads: int) -> Sample:
    """Do the work once in each of ``threads``, at the same time."""
    time.sleep(SETTLE_S)
    with ThreadPoolExecutor(threads) as pool:
        times = np.array(list(pool.map(_work, range(threads))))
    wall, computing = times.sum(axis=0)
    return Sample(float(times[:, 0].max() * 1e3), float(max(0.0, 1 - computing / wall)))


def _work(_: int) -> tuple[float, float]:
    """Seconds on the wall, and of computing."""
    wall, computing = time.perf_counter(), time.thread_time()
    hashlib.sha256(BYTES).digest()  # without the interpreter's lock
    return time.perf_counter() - wall, time.thread_time() - computing


@dataclass(frozen=True)
class Noise:
    """What the samples of some rounds say."""

    rounds: tuple[tuple[Sample, ...], ...]
    """At least one sample in each."""

    @property
    def kernel_ms(self) -> float:
        """The median."""
        return float(np.median(self._wall))

    @property
    def spread(self) -> float:
        """The 90th percentile divided by the median."""
        return float(np.percentile(self._wall, 90) / self.kernel_ms)

    @property
    def waited(self) -> float:
        """Share of the time in which the work waited for a core."""
        return float(np.mean([one.waited for each in self.rounds for one in each]))

    @property
    def by_round(self) -> tuple[float, ...]:
        """The median of each round divided by that of all."""
        return tuple(float(np.median([one.wall_ms for one in each]) / self.kernel_ms) for each in self.rounds)

    @property
    def busy(self) -> bool:
        """Whether something else ran, so that times cannot be trusted."""
        return self.waited > MOST_WAITED or self.spread > MOST_SPREAD

    @property
    def _wall(self) -> list[float]:
        return [one.wall_ms for each in self.rounds for one in each]


def warning(noise: Noise, names: Sequence[str]) -> str:
    """What to tell who reads times of ``names`` that were measured in such noise."""
    return (
        f"The machine was busy with something else while {', '.join(names)} was timed: a fixed piece of work waited "
        f"for a core for {noise.waited:.0%} of its time, and its 90th percentile was {noise.spread:.2f} times its "
        f"median (quiet: at most {MOST_WAITED:.0%} and {MOST_SPREAD:g}). Their times and ratios cannot be trusted. "
        "Stop what else runs and do the same again: models and scores are kept, times are measured anew."
    )
