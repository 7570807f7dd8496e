"""What a load test measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from hdrh.histogram import HdrHistogram

from bantam.loadtest.histogram import PERCENTS, Times, histogram, omitted, percentiles
from bantam.loadtest.schema import Quantile

BUSY = 0.85
"""Cores' worth of CPU of one client process from which it has no reserve: Python code runs on one core at a time."""
LATE_MS = 1.0
LATE_SHARE = 0.1
"""The client is late if its lag reaches both: 1 ms, and a tenth of the latency, at the 99th percentile."""


@dataclass(frozen=True, eq=False)
class LoadResult:
    """The times of all requests of one test, in the order of their intended sending; ``[n]`` seconds from its start.

    Failed requests have no latency; they are counted in ``errors``.
    """

    due: Times
    """When each was meant to be sent. In a closed loop, when it was sent."""
    begun: Times
    """When each was sent."""
    done: Times
    """When each was answered, or failed."""
    failed: Mapping[int, str] = field(default_factory=dict)
    """Position of a request that failed -> name of the exception."""
    rate: float | None = None
    """Requests per second that were meant to be sent; None in a closed loop."""
    clients: int | None = None
    """Clients of a closed loop; None in an open one."""
    interval_ms: float | None = None
    """Closed loop: the usual (median) time from one sending of a client to its next."""
    cpu_s: float = 0.0
    """CPU time that the testing processes took."""
    processes: int = 1
    """Over how many processes the sending was spread."""

    @cached_property
    def latencies_ms(self) -> Times:
        """From the intended sending to the answer, of those answered."""
        return 1e3 * (self.done - self.due)[self._answered]

    @cached_property
    def service_ms(self) -> Times:
        """From the *actual* sending to the answer, of those answered: what a tester that forgives its lag would say."""
        return 1e3 * (self.done - self.begun)[self._answered]

    @cached_property
    def lags_ms(self) -> Times:
        """From the intended to the actual sending, failed requests included: how late the tester itself was."""
        return 1e3 * (self.begun - self.due)

    @cached_property
    def histogram(self) -> HdrHistogram:
        """The latencies in microseconds as an HDR histogram."""
        return histogram(self.latencies_ms)

    @property
    def seconds(self) -> float:
        """From the first intended sending to the last answer."""
        return float(self.done.max() - self.due.min())

    @property
    def errors(self) -> dict[str, int]:
        """Name of the exception -> how many requests failed with it."""
        return dict(Counter(self.failed.values()))

    @property
    def p50_ms(self) -> float:
        """Median latency; NaN if no request was answered."""
        return self.percentile_ms(50)

    @property
    def lag_p99_ms(self) -> float:
        """99th percentile of the tester's own lag."""
        return float(np.percentile(self.lags_ms, 99))

    @property
    def texts_per_s(self) -> float:
        """Texts answered per second: the rate that was achieved."""
        return len(self.latencies_ms) / self.seconds

    @property
    def client_cores(self) -> float:
        """CPU that a testing process took, in cores; the mean of the processes."""
        return self.cpu_s / self.seconds / self.processes

    @property
    def client_bound(self) -> bool:
        """Whether the figures tell of the tester: it had no CPU to spare, or sent too late."""
        late = self.lag_p99_ms
        return self.client_cores >= BUSY or (late > LATE_MS and late > LATE_SHARE * self.percentile_ms(99))

    @cached_property
    def corrected_ms(self) -> Times:
        """Closed loop: the latencies, and those that waiting clients left out; see :func:`omitted`."""
        return self._corrected[0]

    def percentile_ms(self, percent: float) -> float:
        """Any percentile of the latency, to three digits; NaN if no request was answered."""
        return self.histogram.get_value_at_percentile(percent) / 1e3 if len(self.latencies_ms) else float("nan")

    def percentiles(self, percents: Sequence[float] = PERCENTS) -> list[Quantile]:
        """Percentiles of the latency with their intervals; see :func:`bantam.loadtest.histogram.percentiles`."""
        return percentiles(self.latencies_ms, None, percents)

    def naive_percentiles(self, percents: Sequence[float] = PERCENTS) -> list[Quantile]:
        """The same from the actual sending."""
        return percentiles(self.service_ms, None, percents)

    def corrected_percentiles(self, percents: Sequence[float] = PERCENTS) -> list[Quantile]:
        """Closed loop: the same corrected for coordinated omission."""
        return percentiles(*self._corrected, percents)

    def share_within(self, limit_ms: float) -> float:
        """Share of all requests, 0 to 1, that were answered within ``limit_ms``; a failed one was not."""
        return float(np.count_nonzero(self.latencies_ms <= limit_ms) / len(self.due))

    @cached_property
    def _answered(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        answered = np.ones(len(self.due), dtype=np.bool_)
        answered[list(self.failed)] = False
        return answered

    @cached_property
    def _corrected(self) -> tuple[Times, np.ndarray[tuple[int], np.dtype[np.intp]]]:
        """Measured and omitted latencies, and to which request each belongs."""
        measured = np.arange(len(self.latencies_ms))
        if self.interval_ms is None:
            return self.latencies_ms, measured
        missing, causes = omitted(self.latencies_ms, self.interval_ms)
        return np.concatenate((self.latencies_ms, missing)), np.concatenate((measured, causes))


def merged(parts: Sequence[LoadResult]) -> LoadResult:
    """The results of processes that took part in one test, whose times count from the same moment, as one result."""
    order = np.argsort(np.concatenate([part.due for part in parts]), kind="stable")
    place = np.empty(len(order), dtype=np.intp)
    place[order] = np.arange(len(order))
    failed: dict[int, str] = {}
    offset = 0
    for part in parts:
        failed |= {int(place[offset + position]): kind for position, kind in part.failed.items()}
        offset += len(part.due)
    clients = [part.clients for part in parts if part.clients is not None]
    rates = [part.rate for part in parts if part.rate is not None]
    intervals = [part.interval_ms for part in parts if part.interval_ms is not None]
    return LoadResult(
        due=np.concatenate([part.due for part in parts])[order],
        begun=np.concatenate([part.begun for part in parts])[order],
        done=np.concatenate([part.done for part in parts])[order],
        failed=dict(sorted(failed.items())),
        rate=sum(rates) if rates else None,
        clients=sum(clients) if clients else None,
        interval_ms=float(np.median(intervals)) if intervals else None,
        cpu_s=sum(part.cpu_s for part in parts),
        processes=sum(part.processes for part in parts),
    )
