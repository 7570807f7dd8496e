"""The load tester against callables whose stalls and queues are known, so that the percentiles can be computed."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from bantam.loadtest.loop import arrival_times, closed_loop, open_loop
from bantam.loadtest.search import max_rate_within_slo

TEXTS = ("a", "b", "c")
STALL = (0.5, 1.0)
RATE, SECONDS = 200.0, 2.0

# Sleeps on a shared machine overrun; the stalls are ten times longer than what is tolerated.
TOLERANCE_MS = 60.0


class Stalling:
    """Answers after ``service`` seconds, but not while it stalls: ``STALL[0]`` to ``STALL[1]`` after its first call."""

    def __init__(self, service: float = 0.0) -> None:
        self._service = service
        self._start: float | None = None

    def __call__(self, text: str) -> None:
        self._start = self._start or time.perf_counter()
        time.sleep(self._service)
        age = time.perf_counter() - self._start
        if STALL[0] <= age < STALL[1]:
            time.sleep(STALL[1] - age)


class OneAtATime:
    """A queue before a single worker that takes ``service`` seconds a text."""

    def __init__(self, service: float) -> None:
        self._service = service
        self._worker = threading.Lock()

    def __call__(self, text: str) -> None:
        with self._worker:
            time.sleep(self._service)


def expected_percentile(percent: float) -> float:
    """Of the latencies in ms when all requests that fall into the stall wait for its end."""
    due = np.arange(0, SECONDS, 1 / RATE)
    waits = np.where((due >= STALL[0]) & (due < STALL[1]), STALL[1] - due, 0.0)
    return float(np.percentile(1000 * waits, percent))


@pytest.mark.parametrize("max_in_flight", [256, 1])
def test_open_loop_counts_what_a_stall_did_to_all_requests(max_in_flight: int) -> None:
    # With one request in flight the sender itself is blocked, as naive testers are: the latencies must not notice.
    result = open_loop(
        Stalling(), TEXTS, rate=RATE, seconds=SECONDS, arrivals="constant", warmup=0, max_in_flight=max_in_flight
    )
    assert len(result.latencies_ms) == RATE * SECONDS
    assert result.errors == {}
    for percent, measured in ((50, result.p50_ms), (95, result.p95_ms), (99, result.p99_ms)):
        assert measured == pytest.approx(expected_percentile(percent), abs=TOLERANCE_MS), f"p{percent}"
    assert result.texts_per_s == pytest.approx(RATE, rel=0.2)
    if max_in_flight == 1:
        assert result.lag_p99_ms > 400
    else:
        assert result.lag_p99_ms < 200


def test_closed_loop_hides_the_stall_and_open_loop_does_not() -> None:
    naive = closed_loop(Stalling(service=0.002), TEXTS, seconds=SECONDS, warmup=0)
    assert naive.latencies_ms.max() > 400, "the stall did happen"
    assert naive.p99_ms < 100 < 400 < expected_percentile(99)


def test_overload_builds_the_queue_that_theory_says() -> None:
    service, rate, n = 0.010, 200.0, 100
    result = open_loop(OneAtATime(service), TEXTS, rate=rate, seconds=n / rate, arrivals="constant", warmup=0)
    i = np.arange(n)
    theory = 1000 * ((i + 1) * service - i / rate)
    assert len(result.latencies_ms) == n
    # A sleep may overrun but never ends early; the order in which the lock lets threads in does not change the mean.
    assert theory.mean() <= result.latencies_ms.mean() < theory.mean() * 2
    assert result.texts_per_s < 1 / service


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
    calls = 0

    def cold(text: str) -> None:
        nonlocal calls
        calls += 1
        if calls <= 3:
            time.sleep(0.2)

    result = closed_loop(cold, TEXTS, requests=10, warmup=3)
    assert calls == 13
    assert len(result.latencies_ms) == 10
    assert result.latencies_ms.max() < 200


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


def test_the_highest_rate_within_the_objective_is_below_capacity() -> None:
    service = 0.005  # capacity 200/s; by M/D/1 the p99 reaches 50 ms near 170/s
    begun = time.perf_counter()
    search = max_rate_within_slo(OneAtATime(service), TEXTS, slo_ms=50, seconds=6, step_seconds=1)
    assert time.perf_counter() - begun < 6 + 3
    assert search.rate is not None
    assert 40 <= search.rate <= 1 / service  # sleeps overrun on a busy machine, which lowers the true capacity
    passed = [step.rate for step in search.steps if step.share_within(50) >= 0.99]
    assert search.rate == max(rate for rate in passed if rate is not None)
    assert len(passed) < len(search.steps), "a rate that fails was tried, so that the answer is bounded from above"


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
