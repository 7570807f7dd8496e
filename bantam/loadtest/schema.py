"""``load-test.json``, schema 1: what a load test measured. docs/load-test.md explains the figures.

Latencies are milliseconds, rates requests per second, MB 10^6 bytes. What was not measured is None here and absent in
the file, never zero.
"""

from __future__ import annotations

from typing import Literal

from hdrh.histogram import HdrHistogram
from pydantic import Field

from bantam.report.provenance import Count, Machine, Positive, Record, Share


class Quantile(Record):
    """A percentile of the latency and the 95% interval of it, both in milliseconds."""

    percent: float
    ms: Positive
    low_ms: Positive | None = None
    """Absent if there were too few requests for an interval."""
    high_ms: Positive | None = None
    beyond: Count
    """Requests that took longer. With fewer than ten, this percentile is a matter of luck."""


class Moment(Record):
    """The requests that were meant to be sent within a short time."""

    start_s: float
    requests: Count
    errors: Count
    p50_ms: Positive | None = None
    p99_ms: Positive | None = None
    max_ms: Positive | None = None


class ServerFigures(Record):
    """The server meanwhile: its own account of the time, in means over requests, and what it took of the machine."""

    batch: Positive | None = None
    """Texts in a run of the model."""
    queue_ms: float | None = None
    compute_input_ms: float | None = None
    compute_infer_ms: float | None = None
    compute_output_ms: float | None = None
    cores: float | None = None
    peak_rss_mb: Positive | None = None


class Measurement(Record):
    """One test at one rate, or with one number of clients."""

    kind: Literal["open", "closed"]
    arrivals: str | None = None
    rate: Positive | None = None
    clients: int | None = None
    requests: Count
    seconds: Positive
    answered_per_s: float
    errors: dict[str, Count]
    latency: tuple[Quantile, ...]
    """From the intended sending. In a closed loop, as measured: without what the waiting clients did not send."""
    naive: tuple[Quantile, ...] | None = None
    """Open loop: from the actual sending, if that differs."""
    corrected: tuple[Quantile, ...] | None = None
    """Closed loop: corrected for coordinated omission, if that differs."""
    lag_p99_ms: float
    client_cores: float
    """CPU of a testing process, in cores."""
    processes: int
    client_bound: bool
    server: ServerFigures
    moments: tuple[Moment, ...]
    hdr: str
    """The histogram of ``latency`` in microseconds, in HdrHistogram's own compressed form (V2, base64)."""

    @property
    def name(self) -> str:
        """``closed loop, 1 client`` or ``open loop, 200/s``."""
        if self.kind == "open":
            return f"open loop, {self.rate:.4g}/s"
        return f"closed loop, {self.clients} client{'' if self.clients == 1 else 's'}"

    def quantile(self, percent: float) -> Quantile | None:
        """One percentile of the latency; None if nothing was answered."""
        return next((found for found in self.latency if found.percent == percent), None)

    def histogram(self) -> HdrHistogram:
        """The histogram as an object."""
        return HdrHistogram.decode(self.hdr)


class Step(Record):
    """A rate that the search for the limit tried."""

    rate: Positive
    requests: Count
    """Those sent; a step ends early once it cannot be met."""
    percentile_ms: Positive | None = None
    """The objective's percentile of those that were answered."""
    p50_ms: Positive | None = None
    within: Share
    met: bool
    client_bound: bool


class Limit(Record):
    """The search for the highest rate that keeps the objective."""

    slo: str
    rate: Positive | None = None
    """Highest rate tried that kept it."""
    failed_rate: Positive | None = None
    """Lowest rate tried that did not."""
    steps: tuple[Step, ...]


class Texts(Record):
    """What was sent."""

    source: str
    count: Count
    words_p50: float
    words: int | None = None
    """Words of each text, if they were made equally long."""


class LoadTestReport(Record):
    """A whole load test."""

    schema_: Literal[1] = Field(1, alias="schema")
    model: str
    address: str
    protocol: str
    texts: Texts
    tests: tuple[Measurement, ...]
    limit: Limit | None = None
    notes: tuple[str, ...] = ()
    machine: Machine | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    created: str | None = None
    command: str | None = None
