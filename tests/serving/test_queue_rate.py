"""What the queue learns of a model's speed, and the clients of a slow one."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from bantam.client import retry
from bantam.client.retry import Attempts, Throttle
from bantam.errors import UnavailableError
from tests.serving.conftest import FORESEEN, MS, MakeQueue, Queue

pytestmark = pytest.mark.compiler


def foreseen_ms(queue: Queue) -> float:
    """What a request waits behind one other."""
    queue.put(0)
    queue.put(0)
    return float(queue.requests[-1].foreseen / MS)


def test_the_rate_is_that_of_the_last_batches(make_queue: MakeQueue) -> None:
    queue = make_queue()
    queue.learn(10)
    for _ in range(60):
        queue.learn(100)
    assert 99 < foreseen_ms(queue) <= 100


def test_one_odd_batch_teaches_no_nonsense(make_queue: MakeQueue) -> None:
    queue = make_queue()
    for _ in range(8):
        queue.learn(10)
    queue.learn(60_000)
    assert 10 < foreseen_ms(queue) < 20


def test_a_text_costs_by_its_bytes_until_where_models_cut_it(make_queue: MakeQueue) -> None:
    queue = make_queue(limit_ms=1000)
    queue.learn(10)
    queue.begin()
    queue.put(0, bytes=64 * 7)
    queue.put(0)
    assert queue.requests[-1].foreseen == 10 * MS + 80 * MS
    long, longer = (make_queue() for _ in range(2))
    for each, size in ((long, 10_000), (longer, 10_000_000)):
        each.put(0, rows=2, bytes=size)
    assert long.requests[0].cost == longer.requests[0].cost < 10_000


def test_a_batch_takes_a_quarter_of_the_limit_or_one_request(make_queue: MakeQueue) -> None:
    queue = make_queue(limit_ms=1000, most_rows=64)
    queue.learn(50)
    for _ in range(8):
        queue.put(0)
    assert queue.take(0)[0] == [1, 2, 3, 4, 5]
    texts = make_queue(limit_ms=1000)
    texts.learn(10)
    for _ in range(8):
        texts.put(0, bytes=64 * 7)
    assert texts.take(0)[0] == [1, 2, 3], "of 80 ms each"
    slow = make_queue(limit_ms=1000)
    slow.learn(600)
    slow.put(0)
    slow.put(0)
    assert slow.take(0)[0] == [1]
    fast = make_queue(limit_ms=1000, most_rows=8)
    for _ in range(20):
        fast.put(0)
    assert fast.take(0)[0] == [*range(8)]


@pytest.mark.parametrize(
    ("fixed_ms", "limit_ms", "differ"), [(260, 1000, 80), (260, 1000, 0), (80, 300, 80), (80, 300, 0), (80, 100, 80)]
)
def test_what_each_batch_costs_does_not_hold_batches_small(
    make_queue: MakeQueue, fixed_ms: float, limit_ms: int, differ: int
) -> None:
    queue = make_queue(limit_ms=limit_ms)
    draw = random.Random(0)
    sizes: list[int] = []
    for number in range(200):
        queue.put(0, bytes=100)
        while number >= 8 and not queue.put(0, bytes=100 + draw.randint(-differ, differ)):
            pass
        batch, _ = queue.take(0)
        queue.done(fixed_ms + 0.5 * len(batch), *batch)
        sizes.append(len(batch))
    assert sum(sizes[100:]) / 100 > 32, "of 64"


Event = tuple[float, int, Callable[[], None]]


class Job:
    """A client with its defaults, that sends lists to a slow model, in simulated time."""

    def __init__(self, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queue = queue
        self.now = 0.0
        self.done = 0
        self._events: list[Event] = []
        self._busy = False
        self._attempts: dict[int, tuple[Attempts, int]] = {}
        self._throttle = Throttle()
        monkeypatch.setattr(retry, "time", SimpleNamespace(monotonic=lambda: self.now))

    def run(self, sizes: list[int], in_flight: int, row_ms: float) -> None:
        """Raises UnavailableError where the client would."""
        self._left, self._row_ms = sizes, row_ms
        for number in range(in_flight):
            self._at(0.001 * number, self._start)
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()

    def _at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, random.getrandbits(60), event))

    def _start(self) -> None:
        if self._left:
            self._send(Attempts(5, 10.0, self._throttle), self._left.pop())

    def _send(self, attempts: Attempts, rows: int) -> None:
        self._attempts[len(self.queue.requests)] = attempts, rows
        timeout = int(1e9 * attempts.left())
        self._refuse(self.queue.put(1e3 * self.now, rows, bytes=100 * rows, timeout=timeout))
        if not self._busy:
            self._take()

    def _refuse(self, refused: list[int]) -> None:
        for number in refused:
            attempts, rows = self._attempts[number]
            pause = attempts.pause(UnavailableError(f"refused after {self.done} lists"))
            self._at(self.now + pause, lambda attempts=attempts, rows=rows: self._send(attempts, rows))  # type: ignore[misc]

    def _take(self) -> None:
        batch, refused = self.queue.take(1e3 * self.now)
        self._refuse(refused)
        self._busy = bool(batch)
        if batch:
            took = self.queue.rows(batch) * self._row_ms * random.uniform(0.9, 1.1)
            self._at(self.now + took / 1e3, lambda: self._finish(batch, took))

    def _finish(self, batch: list[int], took: float) -> None:
        self.queue.done(took, *batch)
        for _ in batch:
            self.done += 1
            self._throttle.answered()
            self._at(self.now + 0.003, self._start)
        self._take()


@pytest.mark.parametrize("in_flight", [2, 4])
@pytest.mark.parametrize("row_ms", [5, 10, 20, 30])
def test_a_client_with_lists_is_no_overload(
    make_queue: MakeQueue, monkeypatch: pytest.MonkeyPatch, row_ms: float, in_flight: int
) -> None:
    random.seed(0)
    job = Job(make_queue(), monkeypatch)
    job.run([3, *([64] * 9 + [5]) * 20], in_flight, row_ms)
    assert job.done == 201
    assert job.queue.counts[FORESEEN] == 0
