"""A small load test of the model and its baseline, in turn, watched while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from queue import SimpleQueue
from statistics import median
from threading import Event, Thread

from bantam.artifact import Text
from bantam.client.transport import Target
from bantam.demo.served import ANSWER_S, ServedPair
from bantam.loadtest.kserve import ENDPOINTS, find_input
from bantam.loadtest.plan import Closed, Open, Plan
from bantam.loadtest.processes import Clients, Subject, Underway, client_processes
from bantam.loadtest.result import LoadResult
from bantam.loadtest.tally import WARMUP

ROUND_S = 1.0
"""The models take turns of about this length, so that a noisy moment of the machine hits both alike."""


@dataclass(frozen=True)
class Load:
    """What is sent to each model: by ``clients`` that each wait for their answer, or at a ``rate`` if one is given."""

    seconds: float
    """For each model."""
    clients: int = 1
    rate: float | None = None

    @property
    def rounds(self) -> int:
        """How many turns each model has."""
        return max(1, round(self.seconds / ROUND_S))

    def plan(self, number: int) -> Plan:
        """Of one turn; the gaps between the requests of an open loop differ from turn to turn."""
        seconds = self.seconds / self.rounds
        return Closed(self.clients, seconds) if self.rate is None else Open(self.rate, seconds, seed=number)


@dataclass
class Course:
    """How the test of one model has gone so far."""

    points: list[tuple[float, float]] = field(default_factory=list)
    """Seconds of this model's own turns, and the median latency of the requests answered around then, in ms."""
    results: list[LoadResult] = field(default_factory=list)
    """Of the turns that are over."""

    @property
    def seconds(self) -> float:
        """Of the turns that are over."""
        return sum(result.seconds for result in self.results)


class _StoppedError(Exception):
    """Nobody watches."""


def run(served: ServedPair, names: Sequence[str], texts: Sequence[Text], load: Load) -> Iterator[dict[str, Course]]:
    """Test the models ``names`` and yield, several times a second, how it goes; the last one is the result.

    Raises the :class:`ClientError` that a request met. Closing the iterator ends the test.
    """
    courses = {name: Course() for name in names}
    news: SimpleQueue[Exception | None] = SimpleQueue()
    stop, end = Event(), Event()

    def work() -> None:
        try:
            with ExitStack() as stack:
                clients = {name: stack.enter_context(_clients(served, name, texts)) for name in names}
                for number in range(load.rounds):
                    for name in names:
                        _turn(clients[name], load.plan(number), courses[name], news, stop)
        except _StoppedError:
            pass
        except Exception as exc:  # noqa: BLE001 whatever it is, whoever watches is to know
            news.put(exc)
        finally:
            end.set()
            news.put(None)

    thread = Thread(target=work, name="demo-load-test", daemon=True)
    thread.start()
    try:
        while not (end.is_set() and news.empty()):
            found = news.get()
            if found is not None:
                raise found
            yield courses
    finally:
        stop.set()
        thread.join()


def _clients(served: ServedPair, name: str, texts: Sequence[Text]) -> AbstractContextManager[Clients]:
    target = Target.checked(served.address, name, ANSWER_S)
    endpoint = ENDPOINTS["grpc"](target)
    try:
        tensor = find_input(endpoint.inputs(), target)
    finally:
        endpoint.close()
    return client_processes(Subject(target, "grpc", tensor, texts, WARMUP), 1)


def _turn(clients: Clients, plan: Plan, course: Course, news: SimpleQueue[Exception | None], stop: Event) -> None:
    before = course.seconds

    def look(state: Underway) -> None:
        if stop.is_set():
            raise _StoppedError
        if len(state.recent_ms):
            course.points.append((round(before + state.seconds, 2), median(state.recent_ms.tolist())))
        news.put(None)

    course.results.append(clients.run(plan, look))
