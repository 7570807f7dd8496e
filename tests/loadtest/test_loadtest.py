"""The load tester against callables whose stalls and queues are known: no latency can be shorter than they make it."""

from __future__ import annotations

import threading
import time
from functools import partial

import numpy as np
import pytest

from bantam.loadtest.closed_loop import closed_loop
from bantam.loadtest.open_loop import arrival_times, open_loop
from bantam.loadtest.plan import Closed, Plan
from bantam.loadtest.result import LoadResult
from bantam.loadtest.search import Slo, highest_rate, max_rate_within_slo

TEXTS = ("a", "b", "c")
RATE, SECONDS = 200.0, 1.0
SLOW, STALL_S = 50, 0.5
"""The number of the call that takes long, and how long."""


class Stalling:
    """Answers at once, but the call number :data:`SLOW` only after :data:`STALL_S`; counts who comes meanwhile."""

    def __init__(self) -> None:
        self.calls = self.meanwhile = 0
        self._stalled = False
        self._lock = threading.Lock()

    def __call__(self, text: str) -> None:
        with self._lock:
            number, self.calls = self.calls, self.calls + 1
            self.meanwhile += self._stalled
        if number == SLOW:
            self._stalled = True
            time.sleep(STALL_S)
            self._stalled = False


class OneAtATime:
    """A queue before a single worker that takes ``service`` seconds a text."""

    def __init__(self, service: float) -> None:
        self._service = service
        self._worker = threading.Lock()

    def __call__(self, text: str) -> None:
        with self._worker:
            time.sleep(self._service)


def test_an_open_loop_counts_what_a_stall_does_to_those_who_wait_for_their_turn() -> None:
    # With one request in flight the sender itself is blocked, as naive testers are: the latencies must not notice.
    result = open_loop(Stalling(), TEXTS, rate=RATE, seconds=SECONDS, arrivals="constant", warmup=0, max_in_flight=1)
    due = np.arange(0, SECONDS, 1 / RATE)
    assert np.allclose(result.due, due, atol=1e-6)
    assert result.errors == {}
    # All from the slow one on are answered after it, and sleep never ends early.
    waits = 1e3 * (due[SLOW] + STALL_S - due[SLOW:])
    assert (result.latencies_ms[SLOW:] >= waits - 1e-3).all()
    assert (result.lags_ms[SLOW + 1 :] >= waits[1:] - 1e-3).all()
    assert result.percentile_ms(90) > 300 > np.percentile(result.service_ms, 90)


def test_a_closed_loop_sends_nothing_in_a_stall_and_an_open_loop_does() -> None:
    waiting, independent = Stalling(), Stalling()
    closed = closed_loop(waiting, TEXTS, requests=200, warmup=0)
    opened = open_loop(independent, TEXTS, rate=RATE, seconds=SECONDS, arrivals="constant", warmup=0)
    assert (waiting.calls, waiting.meanwhile) == (200, 0)
    assert closed.latencies_ms.max() >= 1e3 * STALL_S, "the stall did happen"
    assert independent.meanwhile > 0
    assert len(opened.latencies_ms) == independent.calls == RATE * SECONDS


def test_overload_builds_the_queue_that_theory_says() -> None:
    service, rate, n = 0.010, 200.0, 100
    result = open_loop(OneAtATime(service), TEXTS, rate=rate, seconds=n / rate, arrivals="constant", warmup=0)
    i = np.arange(n)
    theory = 1000 * ((i + 1) * service - i / rate)
    assert len(result.latencies_ms) == n
    # A sleep never ends early; the order in which the lock lets threads in does not change the mean.
    assert result.latencies_ms.mean() >= theory.mean()
    assert result.texts_per_s <= 1 / service


def test_poisson_arrivals_are_seeded_and_have_the_rate_asked_for() -> None:
    times = arrival_times(rate=500, seconds=40, seed=1)
    assert np.array_equal(times, arrival_times(rate=500, seconds=40, seed=1))
    assert not np.array_equal(times, arrival_times(rate=500, seconds=40, seed=2))
    assert times[0] == 0
    assert times[-1] < 40
    assert len(times) == pytest.approx(20_000, abs=5 * np.sqrt(20_000))
    gaps = np.diff(times)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05), "exponential gaps: deviation equals mean"


def test_open_loop_sends_each_text_of_its_schedule_in_turn() -> None:
    seen: list[str] = []
    result = open_loop(seen.append, TEXTS, rate=300, seconds=0.5, seed=3, warmup=0)
    expected = len(arrival_times(rate=300, seconds=0.5, seed=3))
    assert len(seen) == len(result.latencies_ms) == expected
    assert sorted(seen) == sorted(TEXTS[i % 3] for i in range(expected))
    assert result.rate == 300


def test_warm_up_is_not_measured() -> None:
    seen: list[str] = []
    result = closed_loop(seen.append, TEXTS, requests=10, warmup=3)
    assert len(seen) == 13
    assert len(result.latencies_ms) == 10


@pytest.mark.parametrize("mode", ["closed", "fixed"])
def test_errors_are_counted_by_kind_and_have_no_latency(mode: str) -> None:
    numbers = iter(range(1000))
    lock = threading.Lock()

    def failing(text: str) -> None:
        with lock:
            number = next(numbers)
        if number % 4 == 0:
            raise TimeoutError("late")
        if number % 4 == 1:
            raise KeyError("odd")

    if mode == "closed":
        result = closed_loop(failing, TEXTS, requests=40, warmup=0)
    else:
        result = open_loop(failing, TEXTS, rate=400, seconds=0.1, arrivals="constant", warmup=0)
    assert result.errors == {"TimeoutError": 10, "KeyError": 10}
    assert len(result.latencies_ms) == 20
    assert len(result.lags_ms) == 40
    assert result.share_within(1000) == 0.5


def test_no_answer_at_all_gives_no_percentile() -> None:
    def broken(text: str) -> None:
        raise OSError("down")

    result = closed_loop(broken, TEXTS, requests=5, warmup=0)
    assert np.isnan(result.p50_ms)
    assert result.texts_per_s == 0
    with pytest.raises(OSError, match="down"):
        closed_loop(broken, TEXTS, requests=5)  # the warm-up tells at once


def test_closed_loop_clients_share_the_texts() -> None:
    seen: list[str] = []
    lock = threading.Lock()
    most = under_way = 0

    def send(text: str) -> None:
        nonlocal most, under_way
        with lock:
            under_way += 1
            most = max(most, under_way)
            seen.append(text)
        time.sleep(0.01)
        with lock:
            under_way -= 1

    result = closed_loop(send, [str(i) for i in range(30)], requests=30, clients=3, warmup=0)
    assert sorted(seen, key=int) == [str(i) for i in range(30)]
    assert most == 3
    assert len(result.latencies_ms) == 30
    assert result.rate is None


def one_server(service: float, plan: Plan) -> LoadResult:
    """What a server does that takes ``service`` seconds for each text, one after the other: computed, not run."""
    if isinstance(plan, Closed):
        done = np.linspace(service, plan.seconds, round(plan.seconds / service))
        return LoadResult(np.maximum(done - plan.clients * service, 0), done - service, done, clients=plan.clients)
    due, free = plan.schedule(), 0.0
    done = np.empty(len(due))
    for i, at in enumerate(due):
        free = done[i] = max(free, at) + service
    return LoadResult(due, due, done, rate=plan.rate)


def test_the_highest_rate_within_the_objective_is_where_theory_has_it() -> None:
    # M/D/1 in units of the service time: P(wait > x) = C exp(-t x) with r (e^t - 1) = t and C = (1 - r) / (r e^t - 1);
    # of 5 ms each, 1% wait longer than 45 ms at r = 0.767, 153 a second.
    service, slo = 0.005, Slo(99, 50)
    search = highest_rate(partial(one_server, service), slo, capacity_s=2, step_s=600)
    assert search.rate == pytest.approx(153, rel=0.05)
    assert search.rate is not None
    assert search.failed_rate is not None
    assert search.rate < search.failed_rate <= 1.05 * search.rate
    assert search.rate == max(step.rate for step in search.steps if step.rate and slo.met(step))


def test_a_search_ends_when_its_time_is_over() -> None:
    allowed = iter((True, False))
    search = highest_rate(
        partial(one_server, 0.005), Slo(99, 50), capacity_s=2, step_s=5, more=lambda steps: next(allowed)
    )
    assert len(search.steps) == 2


def test_the_search_of_this_process_sends_to_the_callable_and_stops_a_rate_that_fails() -> None:
    seen: list[str] = []
    search = max_rate_within_slo(seen.append, TEXTS, slo_ms=1e6, seconds=0.3, step_seconds=0.1)
    assert search.rate == max(step.rate or 0 for step in search.steps)
    assert len(seen) > sum(len(step.due) for step in search.steps), "and the closed loop before"


def test_an_objective_that_no_rate_meets() -> None:
    search = max_rate_within_slo(lambda _: time.sleep(0.03), TEXTS, slo_ms=10, seconds=1.5, step_seconds=0.3)
    assert search.rate is None
    assert search.steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0, "seconds": 1}, "rate=0"),
        ({"rate": 10, "seconds": -1}, "seconds=-1"),
        ({"rate": 10, "seconds": 1, "max_in_flight": 0}, "max_in_flight=0"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_loop(lambda _: None, TEXTS, **options)  # type: ignore[arg-type]


def test_a_test_needs_texts_and_an_end() -> None:
    with pytest.raises(ValueError, match="no texts"):
        closed_loop(lambda _: None, [], requests=1)
    with pytest.raises(ValueError, match="expected one of the two"):
        closed_loop(lambda _: None, TEXTS)
