"""The queue's policy, by itself: ``queue.c`` compiled, and told what time it is."""

from __future__ import annotations

import ctypes
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest

from serving.inline.build import HERE

MS = 1_000_000
FULL, FORESEEN, LATE, DEADLINE, GONE, WAITING = range(6)


class Waiting(ctypes.Structure):
    """As in ``queue.h``."""


Link = ctypes.POINTER(Waiting)
Waiting._fields_ = [
    ("next", Link),
    *((name, ctypes.c_uint64) for name in ("rows", "bytes", "arrived", "timeout", "foreseen")),
    ("reason", ctypes.c_int),
    ("watch", ctypes.c_bool),
]


class Queue:
    """One queue; requests are known by the order in which they came."""

    def __init__(self, library: ctypes.CDLL, limit_ms: int, most_rows: int) -> None:
        self._library = library
        self.counts = (ctypes.c_int64 * 6)()
        self._queue = ctypes.c_void_p(library.queue_new(ctypes.c_uint64(limit_ms * MS), most_rows, self.counts))
        self.requests: list[Waiting] = []

    def put(self, at: float, rows: int = 1, **said: int) -> list[int]:
        """A request comes at ``at`` ms; returns which are refused."""
        self.requests.append(Waiting(rows=rows, **said))
        refused = Link()
        self._library.queue_put(
            self._queue, ctypes.byref(self.requests[-1]), ctypes.c_uint64(int(at * MS)), ctypes.byref(refused)
        )
        return self._numbers(refused)

    def take(self, at: float) -> tuple[list[int], list[int]]:
        """The next batch, and which are refused."""
        refused = Link()
        batch = self._library.queue_take(self._queue, ctypes.c_uint64(int(at * MS)), ctypes.byref(refused))
        return self._numbers(batch), self._numbers(refused)

    def done(self, rows: int, ms: float) -> None:
        self._library.queue_done(self._queue, ctypes.c_uint64(rows), ctypes.c_uint64(int(ms * MS)))

    def learn(self, row_ms: float) -> None:
        """A row takes so long."""
        self.put(0)
        assert self.take(0)[0] == [len(self.requests) - 1]
        self.done(1, row_ms)
        assert self.take(0) == ([], [])

    def locked(self, function: Callable[[], object]) -> None:
        self._library.queue_lock(self._queue)
        function()
        self._library.queue_unlock(self._queue)

    def wait(self) -> bool:
        return bool(self._library.queue_wait(self._queue))

    def end(self) -> None:
        self._library.queue_end(self._queue)

    def _numbers(self, link: ctypes._Pointer[Waiting]) -> list[int]:
        places = {ctypes.addressof(request): number for number, request in enumerate(self.requests)}
        found = []
        while link:
            found.append(places[ctypes.addressof(link.contents)])
            link = link.contents.next
        return found


Make = Callable[..., Queue]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("queue") / "queue.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-pthread", "-o", path, HERE / "queue.c"], check=True)
    found = ctypes.CDLL(str(path))
    found.queue_new.restype = ctypes.c_void_p
    found.queue_wait.restype = ctypes.c_bool
    found.queue_take.restype = Link
    return found


@pytest.fixture
def make(library: ctypes.CDLL) -> Iterator[Make]:
    made: list[Queue] = []

    def new(limit_ms: int = 1000, most_rows: int = 64) -> Queue:
        made.append(Queue(library, limit_ms, most_rows))
        return made[-1]

    yield new
    for queue in made:
        while queue.take(10**9)[0]:
            pass
        assert queue.counts[WAITING] == 0
        library.queue_free(queue._queue)


def test_who_computes_is_woken_by_what_comes_and_by_the_end(make: Make) -> None:
    queue = make()
    woken: list[bool] = []
    number = threading.Semaphore(0)

    def work() -> None:
        for _ in range(2):
            woken.append(queue.wait())
            if woken[-1]:
                assert queue.take(0)[0] == [0]
            number.release()

    worker = threading.Thread(target=work)
    worker.start()
    queue.locked(lambda: queue.put(0))
    assert number.acquire(timeout=60)
    queue.end()
    worker.join(60)
    assert woken == [True, False]


def test_who_would_wait_longer_than_half_the_limit_is_refused_at_once(make: Make) -> None:
    queue = make(limit_ms=1000)
    queue.learn(10)
    came = [queue.put(0) for _ in range(60)]
    assert [number for refused in came for number in refused] == [*range(52, 61)], "50 rows of 10 ms are half of it"
    assert queue.counts[FORESEEN] == 9
    assert {queue.requests[number].reason for number in range(52, 61)} == {FORESEEN}
    assert queue.counts[WAITING] == 51


def test_what_the_running_batch_still_takes_is_waited_for_too(make: Make) -> None:
    queue = make(limit_ms=1000)
    queue.learn(200)
    queue.put(0)
    assert queue.take(0)[0] == [1]
    queue.put(0)  # behind the 200 ms of the batch
    queue.put(0)  # 400
    assert queue.put(0) == [4]
    assert queue.requests[4].foreseen == 600 * MS
    assert queue.put(150) == [], "the batch is nearly done"
    assert queue.requests[5].foreseen == 450 * MS


def test_a_batch_that_is_slower_than_those_before_is_believed(make: Make) -> None:
    queue = make(limit_ms=1000)
    queue.learn(1)
    queue.put(0)
    queue.take(0)
    assert [queue.put(200) for _ in range(4)] == [[], [], [], [5]], "three wait, and the one under way has taken 200 ms"


def test_the_rate_is_that_of_the_last_batches(make: Make) -> None:
    queue = make()
    queue.learn(10)
    for _ in range(40):
        queue.learn(100)
    queue.put(0)
    queue.put(0)
    assert 99 * MS < queue.requests[-1].foreseen <= 100 * MS
    queue.take(0)
    queue.done(0, 5000)  # a batch that failed
    queue.put(0)
    queue.put(0)
    assert queue.requests[-1].foreseen <= 100 * MS


def test_what_has_waited_for_the_limit_is_refused_when_others_come_and_before_a_batch(make: Make) -> None:
    queue = make(limit_ms=1000)
    for at in (0, 500, 900):
        queue.put(at)
    queue.put(910, rows=8)
    assert queue.put(1000) == [0]
    assert queue.take(1911) == ([4], [3, 2, 1])
    assert queue.counts[LATE] == 4


def test_a_batch_takes_a_quarter_of_the_limit_or_one_request(make: Make) -> None:
    queue = make(limit_ms=1000, most_rows=64)
    queue.learn(50)
    for _ in range(8):
        queue.put(0)
    assert queue.take(0)[0] == [1, 2, 3, 4, 5]
    slow = make(limit_ms=1000)
    slow.learn(600)
    slow.put(0)
    slow.put(0)
    assert slow.take(0)[0] == [1]
    fast = make(limit_ms=1000, most_rows=8)
    for _ in range(20):
        fast.put(0)
    assert fast.take(0)[0] == [*range(8)]


def test_a_model_that_is_idle_takes_anything(make: Make) -> None:
    queue = make(limit_ms=100)
    queue.learn(5000)
    assert queue.put(0, rows=64) == []
    assert queue.take(0)[0] == [1]


def test_few_texts_go_before_lists_which_get_one_row_in_four(make: Make) -> None:
    queue = make(limit_ms=100_000, most_rows=8)
    for _ in range(4):
        queue.put(0, rows=8)
    for _ in range(100):
        queue.put(1)
    lists = [number for number in range(17) if queue.take(2)[0][0] < 4]
    assert lists == [3, 7, 11, 15], "after 24 single ones each"


def test_lists_are_let_in_while_single_texts_fill_their_part(make: Make) -> None:
    queue = make(limit_ms=1000)
    queue.learn(10)
    while not queue.put(0):
        pass
    last = len(queue.requests)
    assert queue.put(0, rows=8) == [], "it waits for 24 of them"
    assert queue.requests[last].foreseen == 240 * MS
    assert queue.put(0, rows=8) == [last + 1], "this one for all of them"
    assert queue.take(0)[0] == [*range(1, 26)]


def test_a_list_may_wait_for_twice_what_it_takes_itself(make: Make) -> None:
    queue = make(limit_ms=1000)
    queue.learn(100)
    queue.put(0, rows=64)
    assert queue.take(0)[0] == [1]
    assert queue.put(0) == [2], "a text may not"
    assert queue.put(0, rows=64) == queue.put(0, rows=64) == []
    assert queue.put(0, rows=64) == [5], "it would wait for three others"
    queue.done(64, 6400)
    assert queue.take(6400) == ([3], [])
    queue.done(64, 6400)
    assert queue.take(12800) == ([4], [])


def test_deadlines(make: Make) -> None:
    queue = make(limit_ms=1000)
    queue.learn(10)
    queue.put(0, timeout=100 * MS)
    assert queue.put(0, timeout=5 * MS) == [2], "it would wait for 10 ms"
    queue.put(0)
    assert queue.take(150) == ([3], [1])
    assert queue.counts[DEADLINE] == 2


def test_the_watch_is_never_refused_and_first(make: Make) -> None:
    queue = make(limit_ms=100)
    queue.learn(30)
    while not queue.put(0):
        pass
    probe = len(queue.requests)
    assert queue.put(0, watch=1) == []
    batch, refused = queue.take(5000)
    assert batch == [probe]
    assert probe not in refused


def test_there_is_a_bound_before_the_rate_is_known(make: Make) -> None:
    queue = make()
    assert [queue.put(0) for _ in range(16384)] == [[]] * 16384
    assert queue.put(0) == [16384]
    assert queue.counts[FULL] == 1
    large = make()
    assert large.put(0, bytes=1 << 30) == [], "alone, it may be as large as it wants"
    assert large.put(0, bytes=1) == [1]
