"""What a test is to do, and doing it or a part of it in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bantam.loadtest.closed_loop import loop
from bantam.loadtest.histogram import Times
from bantam.loadtest.open_loop import Arrivals, arrival_times, play
from bantam.loadtest.result import LoadResult
from bantam.loadtest.tally import Send, T, Tally, check_positive


@dataclass(frozen=True)
class Open:
    """An open loop, see :func:`bantam.loadtest.open_loop.open_loop`; ends early once it is sure to miss ``share``.

    Raises :class:`ValueError` for a rate or a time that is not more than 0.
    """

    rate: float
    seconds: float
    arrivals: Arrivals = "poisson"
    seed: int = 0
    slo_ms: float = float("inf")
    share: float = 0.0
    """Share of the requests that have to be within ``slo_ms``."""

    def __post_init__(self) -> None:
        check_positive(rate=self.rate, seconds=self.seconds)

    def schedule(self) -> Times:
        """When to send, in seconds from the start."""
        return arrival_times(self.rate, self.seconds, self.arrivals, self.seed)

    def may_miss(self) -> float:
        """How many requests may be later than ``slo_ms``, or fail; without such a limit, any number."""
        return (1 - self.share) * len(self.schedule()) if self.slo_ms < float("inf") else float("inf")


@dataclass(frozen=True)
class Closed:
    """A closed loop: see :func:`bantam.loadtest.closed_loop.closed_loop`."""

    clients: int
    seconds: float

    def __post_init__(self) -> None:
        check_positive(clients=self.clients, seconds=self.seconds)


Plan = Open | Closed


def run_here(send: Send[T], items: Sequence[T], plan: Plan) -> LoadResult:
    """Run a whole plan in this process."""
    tally = Tally(slo_ms=plan.slo_ms) if isinstance(plan, Open) else Tally()
    may_miss = plan.may_miss() if isinstance(plan, Open) else float("inf")
    return run_part(send, items, plan, 0, 1, time.perf_counter(), tally, may_miss)


def run_part(
    send: Send[T],
    items: Sequence[T],
    plan: Plan,
    number: int,
    of: int,
    start: float,
    tally: Tally,
    may_miss: float = float("inf"),
) -> LoadResult:
    """Run part ``number`` of the ``of`` parts of a plan, from the moment ``start`` on."""
    if isinstance(plan, Closed):
        clients = plan.clients // of + (number < plan.clients % of)
        turned = [*items[number:], *items[:number]]
        return loop(send, turned, start, tally, seconds=plan.seconds, clients=clients)
    schedule = plan.schedule()
    mine = schedule[number::of]
    numbers = range(number, len(schedule), of)
    return play(send, items, mine, start, tally, rate=plan.rate / of, numbers=numbers, may_miss=may_miss)
