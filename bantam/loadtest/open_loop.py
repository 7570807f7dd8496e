"""The open loop: requests sent at their times, whether or not earlier ones are answered.

A ``send`` that can also begin a request without waiting for its answer (:class:`Starter`) needs no thread for each
request under way. Threads rather than asyncio: an event loop on Linux wakes on whole milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Semaphore
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np

from bantam.loadtest.histogram import Times
from bantam.loadtest.result import LoadResult
from bantam.loadtest.tally import WARMUP, RequestTimes, Send, T, Tally, attempt, check, result, warm_up

T_contra = TypeVar("T_contra", contravariant=True)

Done = Callable[[float, str | None], None]
"""To be called once with the moment of sending (performance counter) and, if it failed, the exception's name."""
Arrivals = Literal["poisson", "constant"]

MAX_IN_FLIGHT = 256
"""Requests under way at a time in an open loop over threads. Those beyond wait for their turn, and their latency counts
the wait."""


@runtime_checkable
class Starter(Protocol[T_contra]):
    """A ``send`` that can also begin a request and report its end by a call from any thread."""

    def start(self, item: T_contra, done: Done) -> None:
        """Begin a request; ``done`` is called when it is answered or has failed."""


def arrival_times(rate: float, seconds: float, arrivals: Arrivals = "poisson", seed: int = 0) -> Times:
    """When to send: float64 ``[n]``, seconds from the start, the first at 0, all before ``seconds``."""
    if arrivals == "constant":
        return np.arange(0.0, seconds, 1 / rate)
    # Half again the mean and a hundred more: far more than a Poisson process can have in that time.
    gaps = np.random.default_rng(seed).exponential(1 / rate, size=int(1.5 * rate * seconds) + 100)
    times = np.concatenate(([0.0], np.cumsum(gaps)))
    return times[times < seconds]


def open_loop(
    send: Send[T],
    items: Sequence[T],
    *,
    rate: float,
    seconds: float,
    arrivals: Arrivals = "poisson",
    seed: int = 0,
    warmup: int = WARMUP,
    max_in_flight: int = MAX_IN_FLIGHT,
) -> LoadResult:
    """Send ``rate`` items a second whether or not the earlier ones are answered, as independent users do.

    ``poisson`` draws the gaps between requests (seeded), ``constant`` makes them equal. Returns when all are answered.
    """
    check(items, rate=rate, seconds=seconds, max_in_flight=max_in_flight)
    warm_up(send, items, warmup)
    schedule = arrival_times(rate, seconds, arrivals, seed)
    return play(send, items, schedule, time.perf_counter(), Tally(), rate=rate, max_in_flight=max_in_flight)


def play(
    send: Send[T],
    items: Sequence[T],
    schedule: Times,
    start: float,
    tally: Tally,
    *,
    rate: float,
    numbers: Iterable[int] | None = None,
    may_miss: float = float("inf"),
    max_in_flight: int = MAX_IN_FLIGHT,
) -> LoadResult:
    """The open loop itself: send at the times of ``schedule``, in seconds from ``start``; see :func:`open_loop`.

    ``numbers`` says which item each sending takes, in turn if absent. Stops early, and forgets what was not sent yet,
    on ``tally.stop``, and once more than ``may_miss`` requests missed ``tally.slo_ms``.
    """
    starter: Starter[T] = send if isinstance(send, Starter) else _Threads(send, max_in_flight, tally.stop)
    used, ended = time.process_time(), Semaphore(0)

    def done_for(due: float) -> Done:
        def done(begun: float, error: str | None) -> None:
            if begun >= 0:
                tally.add(RequestTimes(due, begun, time.perf_counter(), error))
            ended.release()

        return done

    try:
        for number, offset in zip(numbers or range(len(schedule)), schedule.tolist(), strict=False):
            due = start + offset
            early = due - time.perf_counter()
            if early > 0:
                time.sleep(early)
            if len(tally.missed) > may_miss or tally.stop.is_set():
                tally.stop.set()
                break
            tally.sent += 1
            starter.start(items[number % len(items)], done_for(due))
        for _ in range(tally.sent):
            ended.acquire()
    finally:
        tally.stop.set()  # also on Ctrl-C: what still waits for a thread is dropped
        if isinstance(starter, _Threads):
            starter.pool.shutdown()
    return result(tally, start, used, rate=rate)


class _Threads(Generic[T]):
    """Gives each request under way a thread."""

    def __init__(self, send: Send[T], workers: int, stop: Event) -> None:
        self._send, self._stop = send, stop
        self.pool = ThreadPoolExecutor(workers)

    def start(self, item: T, done: Done) -> None:
        self.pool.submit(self._run, item, done)

    def _run(self, item: T, done: Done) -> None:
        if self._stop.is_set():
            done(DROPPED, None)
        else:
            begun = time.perf_counter()
            done(begun, attempt(self._send, item))


DROPPED = -1.0
"""Instead of the moment of sending: never sent, because the test was stopped."""
