"""Open and closed loop: when requests are sent, and when they were answered.

``send`` is any callable that takes one item and returns when the answer is there, such as that of a
:class:`bantam.Classifier` made with ``retries=0`` (retries would hide refusals). It must be safe to call from many
threads. One that can also begin a request without waiting for its answer (:class:`Starter`) needs no thread for each
request under way. Threads rather than asyncio: an event loop on Linux wakes on whole
milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from operator import itemgetter
from threading import Event, Semaphore
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from bantam.loadtest.histogram import Times
from bantam.loadtest.result import LoadResult

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

Send = Callable[[T], object]
Done = Callable[[float, str | None], None]
"""To be called once with the moment of sending (performance counter) and, if it failed, the exception's name."""
Arrivals = Literal["poisson", "constant"]

WARMUP = 20
"""Requests sent one by one before the clock starts: connections, caches, first shapes."""
MAX_IN_FLIGHT = 256
"""Requests under way at a time in an open loop over threads. Those beyond wait for their turn, and their latency counts
the wait."""


@runtime_checkable
class Starter(Protocol[T_contra]):
    """A ``send`` that can also begin a request and report its end by a call from any thread."""

    def start(self, item: T_contra, done: Done) -> None:
        """Begin a request; ``done`` is called when it is answered or has failed."""


class Answer(NamedTuple):
    """Times of one request in seconds of the performance counter."""

    due: float
    begun: float
    done: float
    error: str | None


@dataclass
class Tally:
    """A test under way: what it has seen so far, for others to read; the order to stop early, for others to give."""

    slo_ms: float = float("inf")
    sent: int = 0
    answers: list[Answer] = field(default_factory=list)
    """Appended to from several threads: that is atomic, a counter is not."""
    missed: list[None] = field(default_factory=list)
    """One entry for each request that failed or took longer than ``slo_ms``."""
    stop: Event = field(default_factory=Event)

    def add(self, answer: Answer) -> None:
        """Count one more request that came to its end."""
        if answer.error is not None or 1e3 * (answer.done - answer.due) > self.slo_ms:
            self.missed.append(None)
        self.answers.append(answer)


def arrival_times(rate: float, seconds: float, arrivals: Arrivals = "poisson", seed: int = 0) -> Times:
    """When to send: float64 ``[n]``, seconds from the start, the first at 0, all before ``seconds``."""
    if arrivals == "constant":
        return np.arange(0.0, seconds, 1 / rate)
    # Half again the mean and a hundred more: far more than a Poisson process can have in that time.
    gaps = np.random.default_rng(seed).exponential(1 / rate, size=int(1.5 * rate * seconds) + 100)
    times = np.concatenate(([0.0], np.cumsum(gaps)))
    return times[times < seconds]


def closed_loop(
    send: Send[T],
    items: Sequence[T],
    *,
    seconds: float | None = None,
    requests: int | None = None,
    clients: int = 1,
    warmup: int = WARMUP,
) -> LoadResult:
    """``clients`` that each send the next item as soon as the last is answered, for a time or a number of requests.

    A slow answer holds the client back, so this measures the service time of an unloaded server (one client) or the
    most that it can do (many). For what users feel under load, use :func:`open_loop`; ``corrected_ms`` of the result
    is an estimate of it.
    """
    if (seconds is None) == (requests is None):
        raise ValueError(f"Got seconds={seconds} and requests={requests}, expected one of the two.")
    check(items, seconds=seconds, requests=requests, clients=clients)
    warm_up(send, items, warmup)
    return loop(send, items, time.perf_counter(), Tally(), seconds=seconds, requests=requests, clients=clients)


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


def loop(
    send: Send[T],
    items: Sequence[T],
    start: float,
    tally: Tally,
    *,
    seconds: float | None = None,
    requests: int | None = None,
    clients: int = 1,
) -> LoadResult:
    """The closed loop itself, from the moment ``start`` on; see :func:`closed_loop`."""
    used = time.process_time()
    time.sleep(max(0.0, start - time.perf_counter()))

    def client(first: int) -> Times:
        sendings: list[float] = []
        number, end = first, start + (seconds or float("inf"))
        while (requests is None or number < requests) and not tally.stop.is_set():
            begun = time.perf_counter()
            if sendings and begun >= end:
                break
            sendings.append(begun)
            tally.sent = len(tally.answers) + 1
            error = attempt(send, items[number % len(items)])
            tally.add(Answer(begun, begun, time.perf_counter(), error))
            number += clients
        return np.diff(sendings)

    if clients == 1:
        gaps = client(0)  # in this thread: a hand-over would be measured too
    else:
        with ThreadPoolExecutor(clients) as pool:
            gaps = np.concatenate(list(pool.map(client, range(clients))))
    interval_ms = 1e3 * float(np.median(gaps)) if len(gaps) else None
    return result(tally, start, used, clients=clients, interval_ms=interval_ms)


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
                tally.add(Answer(due, begun, time.perf_counter(), error))
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


def attempt(send: Send[T], item: T) -> str | None:
    """Send one item; the name of the exception if that failed."""
    try:
        send(item)
    except Exception as exc:  # noqa: BLE001 - whatever fails is a result, counted by its kind
        return type(exc).__name__
    return None


def warm_up(send: Send[T], items: Sequence[T], requests: int) -> None:
    """Raises what ``send`` raises: a test of a server that does not answer at all is no test."""
    for number in range(requests):
        send(items[number % len(items)])


def check(items: Sequence[object], **positive: float | None) -> None:
    """Raises :class:`ValueError` if there is nothing to send, or a number is not more than 0."""
    if not items:
        raise ValueError("Got no texts to send, expected at least one.")
    check_positive(**positive)


def check_positive(**numbers: float | None) -> None:
    """Raises :class:`ValueError` if one of the numbers is not more than 0."""
    for name, value in numbers.items():
        if value is not None and not value > 0:
            raise ValueError(f"Got {name}={value}, expected more than 0.")


def result(
    tally: Tally,
    start: float,
    used: float,
    *,
    rate: float | None = None,
    clients: int | None = None,
    interval_ms: float | None = None,
) -> LoadResult:
    """What was tallied, in the order of the intended sending; ``used``: CPU time of this process at the start."""
    answers = sorted(tally.answers, key=itemgetter(0))
    times = np.array([answer[:3] for answer in answers], dtype=np.float64).reshape(-1, 3) - start
    return LoadResult(
        due=times[:, 0],
        begun=times[:, 1],
        done=times[:, 2],
        failed={i: answer.error for i, answer in enumerate(answers) if answer.error is not None},
        rate=rate,
        clients=clients,
        interval_ms=interval_ms,
        cpu_s=time.process_time() - used,
    )
