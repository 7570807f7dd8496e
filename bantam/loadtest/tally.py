"""What both loops share: one request sent, what is known of each, and the result of all.

``send`` is any callable that takes one item and returns when the answer is there, such as that of a
:class:`bantam.Classifier` made with ``retries=0`` (retries would hide refusals). It must be safe to call from many
threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from threading import Event
from typing import NamedTuple, TypeVar

import numpy as np

from bantam.loadtest.result import LoadResult

T = TypeVar("T")
Send = Callable[[T], object]

WARMUP = 20
"""Requests sent one by one before the clock starts: connections, caches, first shapes."""


class RequestTimes(NamedTuple):
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
    answers: list[RequestTimes] = field(default_factory=list)
    """Appended to from several threads: that is atomic, a counter is not."""
    missed: list[None] = field(default_factory=list)
    """One entry for each request that failed or took longer than ``slo_ms``."""
    stop: Event = field(default_factory=Event)

    def add(self, answer: RequestTimes) -> None:
        """Count one more request that came to its end."""
        if answer.error is not None or 1e3 * (answer.done - answer.due) > self.slo_ms:
            self.missed.append(None)
        self.answers.append(answer)


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
