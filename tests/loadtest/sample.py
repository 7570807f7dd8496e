"""Made-up load tests, whose figures can be computed."""

from __future__ import annotations

import numpy as np

from bantam.loadtest.describe import describe, describe_limit, warnings
from bantam.loadtest.host import Usage
from bantam.loadtest.kserve import ServerSplit
from bantam.loadtest.result import LoadResult
from bantam.loadtest.schema import LoadTestReport, Texts
from bantam.loadtest.search import Slo, find_limit
from bantam.machine import describe_machine

RNG = np.random.default_rng(0)


def opened(rate: float = 200.0, slow: float = 0.0, lag: float = 0.0) -> LoadResult:
    """An open loop of 1,000 requests; ``slow`` seconds are added to 40 of them."""
    due = np.arange(1000) / rate
    took = RNG.uniform(0.004, 0.006, size=1000)
    took[500:540] += slow
    return LoadResult(due, due + lag, due + lag + took, {10: "TimeoutExceeded", 11: "ClientError"}, rate=rate)


def closed() -> LoadResult:
    """A closed loop of one client, held up once for two seconds."""
    took = np.full(1000, 0.005)
    took[300] = 2.0
    due = np.concatenate(([0.0], np.cumsum(took)[:-1]))
    return LoadResult(due, due, due + took, clients=1, interval_ms=5.0)


def report() -> LoadTestReport:
    """A closed and an open loop, a search, notes."""
    slo = Slo.parse("p99=50ms")
    search = find_limit(lambda rate: opened(rate, slow=max(0.0, (rate - 300) / 1000)), slo, guess=200)
    split, usage = ServerSplit(1000, 1.5, 0.1, 0.02, 3.0, 0.05), Usage(1.25, 166.0, 3)
    tests = (describe(closed(), None, split, usage), describe(opened(slow=0.3), "poisson", None, None))
    limit = describe_limit(search)
    return LoadTestReport(
        model="mini<lm>",
        address="localhost:8001",
        protocol="grpc",
        texts=Texts(source="reviews & more.csv", count=42, words_p50=12),
        tests=tests,
        limit=limit,
        notes=(*warnings(tests, limit), "The server gives no statistics."),
        machine=describe_machine(),
        command="bantam load-test 'mini<lm>'",
        created="2026-11-20T12:00:00+00:00",
    )
