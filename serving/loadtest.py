"""Latency and throughput of a served classifier, as its users feel them.

Latency counts from the moment at which a request was *meant* to be sent. A tester that waits for a slow answer before
it sends the next request leaves out all those that would have suffered meanwhile ("coordinated omission"; Tene, "How
NOT to Measure Latency", 2013). At a fixed rate they are sent all the same.

``send`` is any callable that takes one text and returns when the answer is there, such as a :class:`serving.Classifier`
made with ``retries=0`` (retries would hide refusals). It must be safe to call from many threads. Threads rather than
asyncio: an event loop on Linux wakes on whole milliseconds, so it sent 0.6 ms late (median) where threads sent 0.13 ms
late, at the 50 to 600 requests/s that two cores can serve.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Send = Callable[[str], object]
Times = npt.NDArray[np.float64]
Arrivals = Literal["poisson", "constant"]

WARMUP = 20
"""Requests sent one by one before the clock starts: connections, caches, first shapes."""
MAX_IN_FLIGHT = 256
"""Requests under way at a time at a fixed rate. Those beyond wait for their turn, and their latency counts the wait."""
SLO_SHARE = 0.99
"""A rate is within a latency objective if this share of its requests is."""


@dataclass(frozen=True, eq=False)
class LoadResult:
    """What one test measured. Failed requests have no latency; they are counted in ``errors``."""

    latencies_ms: Times
    """From the intended sending to the answer, float64 ``[n]``, in the order of sending."""
    lags_ms: Times
    """From the intended to the actual sending, failed requests included: how late the tester itself was."""
    seconds: float
    """From the first intended sending to the last answer."""
    rate: float | None = None
    """Requests per second that were meant to be sent; None in a closed loop."""
    errors: dict[str, int] = field(default_factory=dict)
    """Name of the exception -> how many requests failed with it."""

    @property
    def p50_ms(self) -> float:
        """Median latency; NaN if no request was answered."""
        return self.percentile_ms(50)

    @property
    def p95_ms(self) -> float:
        """95th percentile of the latency; NaN if no request was answered."""
        return self.percentile_ms(95)

    @property
    def p99_ms(self) -> float:
        """99th percentile of the latency; NaN if no request was answered."""
        return self.percentile_ms(99)

    @property
    def lag_p99_ms(self) -> float:
        """99th percentile of the tester's own lag; if it is near the latencies, they tell of the tester."""
        return float(np.percentile(self.lags_ms, 99))

    @property
    def texts_per_s(self) -> float:
        """Texts answered per second: the rate that was achieved."""
        return len(self.latencies_ms) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """Any percentile of the latency, linearly interpolated; NaN if no request was answered."""
        return float(np.percentile(self.latencies_ms, percent)) if len(self.latencies_ms) else float("nan")

    def share_within(self, limit_ms: float) -> float:
        """Share of all requests, 0 to 1, that were answered within ``limit_ms``; a failed one was not."""
        return float(np.count_nonzero(self.latencies_ms <= limit_ms) / len(self.lags_ms))


@dataclass(frozen=True)
class SloSearch:
    """What :func:`max_rate_within_slo` found."""

    slo_ms: float
    rate: float | None
    """Highest rate tried, in requests per second, at which the objective held; None if it held at none."""
    steps: tuple[LoadResult, ...]
    """The fixed-rate tests in the order they were made. One that failed early holds what it had measured by then."""


def closed_loop(
    send: Send,
    texts: Sequence[str],
    *,
    seconds: float | None = None,
    requests: int | None = None,
    clients: int = 1,
    warmup: int = WARMUP,
) -> LoadResult:
    """``clients`` that each send the next text as soon as the last is answered, for a time or a number of requests.

    A slow answer holds the client back, so this measures the service time of an unloaded server (one client) or the
    most that it can do (many). For what users feel under load, use :func:`fixed_rate`.
    """
    if (seconds is None) == (requests is None):
        raise ValueError(f"Got seconds={seconds} and requests={requests}, expected one of the two.")
    _check(texts, seconds=seconds, requests=requests, clients=clients)
    _warm_up(send, texts, warmup)
    start = time.perf_counter()

    def client(first: int) -> list[_Answer]:
        answers: list[_Answer] = []
        number, end = first, start + (seconds or float("inf"))
        while (requests is None or number < requests) and (not answers or time.perf_counter() < end):
            answers.append(_answer(send, texts[number % len(texts)], time.perf_counter()))
            number += clients
        return answers

    if clients == 1:
        return _result(client(0), start)  # in this thread: a hand-over would be measured too
    with ThreadPoolExecutor(clients) as pool:
        return _result([answer for answers in pool.map(client, range(clients)) for answer in answers], start)


def arrival_times(rate: float, seconds: float, arrivals: Arrivals = "poisson", seed: int = 0) -> Times:
    """When to send: float64 ``[n]``, seconds from the start, the first at 0, all before ``seconds``."""
    if arrivals == "constant":
        return np.arange(0.0, seconds, 1 / rate)
    # Half again the mean and a hundred more: far more than a Poisson process can have in that time.
    gaps = np.random.default_rng(seed).exponential(1 / rate, size=int(1.5 * rate * seconds) + 100)
    times = np.concatenate(([0.0], np.cumsum(gaps)))
    return times[times < seconds]


def fixed_rate(
    send: Send,
    texts: Sequence[str],
    *,
    rate: float,
    seconds: float,
    arrivals: Arrivals = "poisson",
    seed: int = 0,
    warmup: int = WARMUP,
    max_in_flight: int = MAX_IN_FLIGHT,
) -> LoadResult:
    """Send ``rate`` texts a second whether or not the earlier ones are answered, as independent users do.

    ``poisson`` draws the gaps between requests (seeded), ``constant`` makes them equal. Returns when all are answered.
    """
    _check(texts, rate=rate, seconds=seconds, max_in_flight=max_in_flight)
    _warm_up(send, texts, warmup)
    return _play(send, texts, arrival_times(rate, seconds, arrivals, seed), rate, max_in_flight)


def max_rate_within_slo(
    send: Send,
    texts: Sequence[str],
    *,
    slo_ms: float,
    seconds: float = 15.0,
    step_seconds: float = 2.0,
    precision: float = 0.05,
    seed: int = 0,
) -> SloSearch:
    """The highest Poisson rate at which 99% of the requests are answered within ``slo_ms``, by bisection.

    Starts from what 16 clients in a closed loop get, and tests each rate for ``step_seconds``, less if it fails early,
    until passed and failed rates are within ``precision`` of each other or ``seconds`` are over. May take longer by one
    time-out of ``send``. Short steps: at 100 requests/s, p99 is the second or third slowest of a step.
    """
    end = time.perf_counter() + seconds
    guess = 0.7 * closed_loop(send, texts, seconds=step_seconds / 2, clients=16).texts_per_s or 1.0
    passed: float | None = None
    failed: float | None = None
    steps: list[LoadResult] = []
    while not steps or time.perf_counter() + step_seconds <= end:
        rate = _next_rate(passed, failed, guess)
        step = _play(send, texts, arrival_times(rate, step_seconds, "poisson", seed), rate, MAX_IN_FLIGHT, slo_ms)
        steps.append(step)
        if step.share_within(slo_ms) >= SLO_SHARE:
            passed = rate
        else:
            failed = rate
        if passed and failed and failed <= passed * (1 + precision):
            break
    return SloSearch(slo_ms, passed, tuple(steps))


@dataclass(frozen=True, slots=True)
class _Answer:
    """Times of one request in seconds of the performance counter."""

    due: float
    begun: float
    done: float
    error: str | None


def _answer(send: Send, text: str, due: float) -> _Answer:
    begun, error = time.perf_counter(), None
    try:
        send(text)
    except Exception as exc:  # noqa: BLE001 - whatever fails is a result, counted by its kind
        error = type(exc).__name__
    return _Answer(due, begun, time.perf_counter(), error)


def _result(answers: Iterable[_Answer], start: float, rate: float | None = None) -> LoadResult:
    ordered = sorted(answers, key=lambda answer: answer.due)
    return LoadResult(
        latencies_ms=np.array([1000 * (a.done - a.due) for a in ordered if a.error is None], dtype=np.float64),
        lags_ms=np.array([1000 * (a.begun - a.due) for a in ordered], dtype=np.float64),
        seconds=max(a.done for a in ordered) - start,
        rate=rate,
        errors=dict(Counter(a.error for a in ordered if a.error is not None)),
    )


def _play(
    send: Send,
    texts: Sequence[str],
    schedule: Times,
    rate: float,
    max_in_flight: int,
    slo_ms: float = float("inf"),
) -> LoadResult:
    """Send at the times of ``schedule``, in seconds from now; stop once it is certain that ``slo_ms`` is missed."""
    allowed = (1 - SLO_SHARE) * len(schedule) if slo_ms < float("inf") else float("inf")
    missed: list[_Answer] = []
    futures: list[Future[_Answer]] = []

    def timed(text: str, due: float) -> _Answer:
        answer = _answer(send, text, due)
        if answer.error is not None or 1000 * (answer.done - due) > slo_ms:
            missed.append(answer)
        return answer

    pool = ThreadPoolExecutor(max_in_flight)
    start = time.perf_counter()
    try:
        for number, offset in enumerate(schedule):
            due = start + float(offset)
            time.sleep(max(0.0, due - time.perf_counter()))
            if len(missed) > allowed:
                break
            futures.append(pool.submit(timed, texts[number % len(texts)], due))
    finally:
        pool.shutdown(cancel_futures=len(futures) < len(schedule))  # stopped early, also by Ctrl-C: drop what waits
    return _result([future.result() for future in futures if not future.cancelled()], start, rate)


def _next_rate(passed: float | None, failed: float | None, guess: float) -> float:
    if passed is None:
        return guess if failed is None else failed / 2
    return passed * 1.5 if failed is None else float(np.sqrt(passed * failed))


def _warm_up(send: Send, texts: Sequence[str], requests: int) -> None:
    """Raises what ``send`` raises: a test of a server that does not answer at all is no test."""
    for number in range(requests):
        send(texts[number % len(texts)])


def _check(texts: Sequence[str], **positive: float | None) -> None:
    if not texts:
        raise ValueError("Got no texts to send, expected at least one.")
    for name, value in positive.items():
        if value is not None and not value > 0:
            raise ValueError(f"Got {name}={value}, expected more than 0.")
