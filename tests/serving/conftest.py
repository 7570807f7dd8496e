"""``queue.c`` compiled, and told what time it is."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Iterable, Iterator

import pytest

from serving.inline.build import HERE

MS = 1_000_000
FULL, FORESEEN, LATE, DEADLINE, GONE, WAITING = range(6)


class Waiting(ctypes.Structure):
    """As in ``queue.h``."""


Link = ctypes.POINTER(Waiting)
Waiting._fields_ = [
    ("next", Link),
    *((name, ctypes.c_uint64) for name in ("rows", "bytes", "cost", "arrived", "timeout", "foreseen", "limit")),
    ("reason", ctypes.c_int),
    ("watch", ctypes.c_bool),
]


class Refused(ctypes.Structure):
    """As there."""

    _fields_ = (("first", Link), ("last", Link))


class Queue:
    """One queue; requests are known by the order in which they came."""

    def __init__(self, library: ctypes.CDLL, limit_ms: int, most_rows: int) -> None:
        self._library = library
        self.counts = (ctypes.c_int64 * 6)()
        self._queue = ctypes.c_void_p(library.queue_new(ctypes.c_uint64(limit_ms * MS), most_rows, self.counts))
        self.requests: list[Waiting] = []
        self._places: dict[int, int] = {}

    def put(self, at: float, rows: int = 1, **said: int) -> list[int]:
        """A request comes at ``at`` ms; returns which are refused."""
        cost = self._library.cost_of(ctypes.c_uint64(rows), ctypes.c_uint64(said.get("bytes", 0)))
        self.requests.append(Waiting(rows=rows, cost=cost, **said))
        self._places[ctypes.addressof(self.requests[-1])] = len(self.requests) - 1
        refused = Refused()
        self._library.queue_put(
            self._queue, ctypes.byref(self.requests[-1]), ctypes.c_uint64(int(at * MS)), ctypes.byref(refused)
        )
        return self._numbers(refused.first)

    def take(self, at: float) -> tuple[list[int], list[int]]:
        """The next batch, and which are refused."""
        refused = Refused()
        batch = self._library.queue_take(self._queue, ctypes.c_uint64(int(at * MS)), ctypes.byref(refused))
        return self._numbers(batch), self._numbers(refused.first)

    def done(self, ms: float, *numbers: int) -> None:
        """Those of a batch that got scores, after ``ms``."""
        cost = sum(self.requests[number].cost for number in numbers)
        self._library.queue_done(self._queue, ctypes.c_uint64(cost), ctypes.c_uint64(int(ms * MS)))

    def learn(self, row_ms: float) -> None:
        """A row without bytes takes so long."""
        self.put(0)
        number = len(self.requests) - 1
        assert self.take(0)[0] == [number]
        self.done(row_ms, number)
        assert self.take(0) == ([], [])

    def begin(self, *, rows: int = 1) -> None:
        """Something is computed."""
        self.put(0, rows)
        assert self.take(0)[0] == [len(self.requests) - 1]

    def rows(self, numbers: Iterable[int]) -> int:
        """Of these together."""
        return sum(self.requests[number].rows for number in numbers)

    def locked(self, function: Callable[[], object]) -> None:
        self._library.queue_lock(self._queue)
        function()
        self._library.queue_unlock(self._queue)

    def wait(self) -> bool:
        return bool(self._library.queue_wait(self._queue))

    def end(self) -> None:
        self._library.queue_end(self._queue)

    def free(self) -> None:
        self._library.queue_free(self._queue)

    def _numbers(self, link: ctypes._Pointer[Waiting]) -> list[int]:
        found = []
        while link:
            found.append(self._places[ctypes.addressof(link.contents)])
            link = link.contents.next
        return found


MakeQueue = Callable[..., Queue]


@pytest.fixture(scope="module")
def queue_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("queue") / "queue.so"
    sources = HERE / "queue.c", HERE / "rate.c"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-pthread", "-o", path, *sources], check=True)
    found = ctypes.CDLL(str(path))
    found.queue_new.restype = ctypes.c_void_p
    found.cost_of.restype = ctypes.c_uint64
    found.queue_wait.restype = ctypes.c_bool
    found.queue_take.restype = Link
    return found


@pytest.fixture
def make_queue(queue_library: ctypes.CDLL) -> Iterator[MakeQueue]:
    made: list[Queue] = []

    def new(limit_ms: int = 1000, most_rows: int = 64) -> Queue:
        made.append(Queue(queue_library, limit_ms, most_rows))
        return made[-1]

    yield new
    for queue in made:
        while queue.take(10**9)[0]:
            pass
        assert queue.counts[WAITING] == 0
        queue.free()
