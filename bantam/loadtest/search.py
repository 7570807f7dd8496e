"""The highest rate at which a server keeps an objective for its latency, by bisection."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bantam.errors import UserError
from bantam.loadtest.open_loop import Arrivals
from bantam.loadtest.plan import Closed, Open, Plan, run_here
from bantam.loadtest.result import LoadResult
from bantam.loadtest.tally import WARMUP, Send, T, warm_up

CLIENTS = 16
"""Clients of the closed loop whose throughput tells where to begin."""


@dataclass(frozen=True)
class Slo:
    """An objective: ``percent`` of all requests are answered within ``limit_ms``. A failed one is not."""

    percent: float
    limit_ms: float

    @classmethod
    def parse(cls, text: str) -> Slo:
        """Read ``p99=50ms`` or ``p99.9=0.2s``; :class:`UserError` if it is neither."""
        found = re.fullmatch(r"p(\d+(?:\.\d+)?)=(\d+(?:\.\d+)?)(ms|s)", text.strip().lower())
        percent, limit = (float(found[1]), float(found[2])) if found else (0.0, 0.0)
        if not found or not 0 < percent < 100 or not limit > 0:
            raise UserError(
                f"Got the objective {text!r}, expected a percentile between 0 and 100 and a time, such as "
                "p99=50ms or p99.9=0.2s."
            )
        return cls(percent, limit * (1000 if found[3] == "s" else 1))

    def met(self, result: LoadResult) -> bool:
        """Whether a test kept the objective."""
        return result.share_within(self.limit_ms) >= self.percent / 100

    def __str__(self) -> str:
        return f"p{self.percent:g}={self.limit_ms:g}ms"


@dataclass(frozen=True)
class SloSearch:
    """What a search found."""

    rate: float | None
    """Highest rate tried, in requests per second, at which the objective held; None if it held at none."""
    steps: tuple[LoadResult, ...]
    """The open-loop tests in the order they were made. One that failed early holds what it had measured by then."""
    slo: Slo

    @property
    def failed_rate(self) -> float | None:
        """Lowest rate tried at which it did not hold; None if it always did."""
        return min((step.rate for step in self.steps if step.rate and not self.slo.met(step)), default=None)


def find_limit(
    test: Callable[[float], LoadResult],
    slo: Slo,
    *,
    guess: float,
    precision: float = 0.05,
    more: Callable[[Sequence[LoadResult]], bool] = lambda _: True,
) -> SloSearch:
    """Bisect for the highest rate that keeps ``slo``; ``test`` runs one rate.

    Starts at ``guess``, goes up by half or down by half until one rate passed and one failed, then tries their
    geometric mean until they are within ``precision`` of each other, or ``more`` says no to another step.
    """
    passed: float | None = None
    failed: float | None = None
    steps: list[LoadResult] = []
    while not steps or more(steps):
        rate = _next_rate(passed, failed, guess)
        steps.append(test(rate))
        if slo.met(steps[-1]):
            passed = rate
        else:
            failed = rate
        if passed and failed and failed <= passed * (1 + precision):
            break
    return SloSearch(passed, tuple(steps), slo)


def highest_rate(
    run: Callable[[Plan], LoadResult],
    slo: Slo,
    *,
    capacity_s: float,
    step_s: float,
    arrivals: Arrivals = "poisson",
    seed: int = 0,
    precision: float = 0.05,
    more: Callable[[Sequence[LoadResult]], bool] = lambda _: True,
) -> SloSearch:
    """:func:`find_limit` with plans, which ``run`` runs.

    Starts from what :data:`CLIENTS` clients get in a closed loop of ``capacity_s``. Each rate is tested for ``step_s``
    seconds, less if it fails early. Short steps: at 100 requests/s, p99 is the second or third slowest of one second.
    """
    capacity = run(Closed(CLIENTS, capacity_s)).texts_per_s

    def test(rate: float) -> LoadResult:
        return run(Open(rate, step_s, arrivals, seed, slo.limit_ms, slo.percent / 100))

    return find_limit(test, slo, guess=0.7 * capacity or 1.0, precision=precision, more=more)


def max_rate_within_slo(
    send: Send[T],
    items: Sequence[T],
    *,
    slo_ms: float,
    seconds: float = 15.0,
    step_seconds: float = 2.0,
    precision: float = 0.05,
    seed: int = 0,
) -> SloSearch:
    """The highest Poisson rate at which 99% of the requests are answered within ``slo_ms``, sent by this process.

    :func:`highest_rate`, until it is done or ``seconds`` are over. May take longer by one time-out of ``send``.
    """
    end = time.perf_counter() + seconds
    warm_up(send, items, WARMUP)
    return highest_rate(
        partial(run_here, send, items),
        Slo(99, slo_ms),
        capacity_s=step_seconds / 2,
        step_s=step_seconds,
        seed=seed,
        precision=precision,
        more=lambda _: time.perf_counter() + step_seconds <= end,
    )


def _next_rate(passed: float | None, failed: float | None, guess: float) -> float:
    if passed is None:
        return guess if failed is None else failed / 2
    return passed * 1.5 if failed is None else float(np.sqrt(passed * failed))
