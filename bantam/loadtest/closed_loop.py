"""The closed loop: clients that wait for their answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bantam.loadtest.histogram import Times
from bantam.loadtest.result import LoadResult
from bantam.loadtest.tally import WARMUP, RequestTimes, Send, T, Tally, attempt, check, result, warm_up


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
            tally.add(RequestTimes(begun, begun, time.perf_counter(), error))
            number += clients
        return np.diff(sendings)

    if clients == 1:
        gaps = client(0)  # in this thread: a hand-over would be measured too
    else:
        with ThreadPoolExecutor(clients) as pool:
            gaps = np.concatenate(list(pool.map(client, range(clients))))
    interval_ms = 1e3 * float(np.median(gaps)) if len(gaps) else None
    return result(tally, start, used, clients=clients, interval_ms=interval_ms)
