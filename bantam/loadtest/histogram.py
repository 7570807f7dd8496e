"""Percentiles of latencies: from an HDR histogram, with intervals from blocks.

An HDR histogram (Tene, hdrhistogram.org) counts in cells of three significant digits, so that its tail is as exact as
its middle, two of them add up, and its encoded form can be read by the tools that plot such histograms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram

from bantam.loadtest.schema import Quantile

Times = npt.NDArray[np.float64]

PERCENTS = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
DIGITS = 3
LONGEST_US = 3_600_000_000
"""One hour, the longest latency that is told apart."""
BLOCKS = 20
"""Parts of a test, one after the other, that stand for repetitions of it."""
RESAMPLES = 1000
CONFIDENCE = 0.95
ENOUGH = 10
"""Requests that a block needs for an interval, and that must be beyond a percentile for it to mean much."""


def histogram(latencies_ms: Times) -> HdrHistogram:
    """Latencies ``[n]`` in milliseconds as an HDR histogram of microseconds, 1 to one hour, three digits."""
    found = HdrHistogram(1, LONGEST_US, DIGITS)
    values, counts = np.unique(_microseconds(latencies_ms), return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        found.record_value(value, count)
    return found


def omitted(latencies_ms: Times, interval_ms: float) -> tuple[Times, npt.NDArray[np.intp]]:
    """What a client in a closed loop did not measure, because it waited for a slow answer instead of asking on.

    For each latency of ``[n]`` that is at least twice the interval at which the client sends as a rule, those of the
    requests that it would have sent meanwhile: shorter by one interval, two, and so on, down to the interval. Returns
    them in milliseconds, ``[m]``, and for each the position of the request that held it up. This is the correction of
    HdrHistogram's reference (``recordValueWithExpectedInterval``); the Python port of it goes one step further down,
    which would count a half-interval for each request that is a little late.
    """
    missing = np.maximum(np.floor(latencies_ms / interval_ms).astype(np.intp) - 1, 0)
    causes = np.repeat(np.arange(len(latencies_ms)), missing)
    firsts = np.repeat(np.cumsum(missing) - missing, missing)
    return latencies_ms[causes] - (np.arange(len(causes)) - firsts + 1) * interval_ms, causes


def percentiles(
    latencies_ms: Times, order: npt.NDArray[np.intp] | None = None, percents: Sequence[float] = PERCENTS
) -> list[Quantile]:
    """Percentiles of latencies ``[n]`` with 95% intervals; empty if there are none.

    The intervals come from a bootstrap of 20 blocks of requests that followed each other (Kuensch 1989): requests in
    one queue are no independent samples, parts of the test that are longer than its disturbances nearly are. ``order``
    ``[n]`` says which request each latency belongs to, if more than one belongs to a request.
    """
    if not len(latencies_ms):
        return []
    counted = histogram(latencies_ms).get_percentile_to_value_dict(list(percents))
    ends = _intervals(latencies_ms, np.arange(len(latencies_ms)) if order is None else order, percents)
    found = []
    for percent, (low, high) in zip(percents, ends, strict=True):
        ms = counted[percent] / 1e3
        beyond = int(np.count_nonzero(latencies_ms > ms))
        found.append(Quantile(percent=percent, ms=ms, low_ms=low, high_ms=high, beyond=beyond))
    return found


def _intervals(
    latencies_ms: Times, order: npt.NDArray[np.intp], percents: Sequence[float]
) -> list[tuple[float | None, float | None]]:
    requests = int(order.max()) + 1
    if requests < ENOUGH * BLOCKS:
        return [(None, None)] * len(percents)
    values, places = np.unique(cells(_microseconds(latencies_ms)), return_inverse=True)
    counts = np.zeros((BLOCKS, len(values)))
    np.add.at(counts, (order * BLOCKS // requests, places), 1)
    draws = np.random.default_rng(0).multinomial(BLOCKS, [1 / BLOCKS] * BLOCKS, size=RESAMPLES)
    found = np.empty((RESAMPLES, len(percents)))
    for row, draw in zip(found, draws, strict=True):
        cumulated = np.cumsum(draw @ counts)
        distributed = np.maximum(np.ceil(np.array(percents) / 100 * cumulated[-1]), 1)
        row[:] = values[np.searchsorted(cumulated, distributed)]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(found, [tail, 100 - tail], axis=0) / 1e3
    return list(zip(low.tolist(), high.tolist(), strict=True))


def cells(microseconds: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The upper ends of the HDR histogram's cells that the values are in: 11 bits each, which is three digits."""
    shift = np.maximum(np.log2(microseconds).astype(np.int64) - 10, 0)
    return (((microseconds >> shift) + 1) << shift) - 1


def _microseconds(latencies_ms: Times) -> npt.NDArray[np.int64]:
    return np.clip(np.rint(latencies_ms * 1e3), 1, LONGEST_US).astype(np.int64)
