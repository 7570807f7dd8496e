"""The same loops in processes of their own: as many as it takes, and nothing else in them that costs time.

Several, because Python code runs on one core at a time; of their own, because the terminal's display would delay
requests. All take their part of one schedule from the same moment on. A process ends when its pipe closes, so it cannot
outlive us.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from bantam.artifact import Text
from bantam.client.transport import Target
from bantam.errors import BantamError, ClientError
from bantam.loadtest.histogram import Times
from bantam.loadtest.kserve import ENDPOINTS, ModelInput, check_texts
from bantam.loadtest.plan import Closed, Open, Plan, run_part
from bantam.loadtest.result import LoadResult, merged
from bantam.loadtest.tally import Tally, check, warm_up

TICK_S = 0.2
"""How often a test under way is looked at."""
HEAD_START_S = 0.1
"""From the order to begin until all begin."""
STOP = "stop"


@dataclass(frozen=True)
class Subject:
    """What is tested, and how it is asked. Raises :class:`UserError` for texts that are not what the model takes."""

    target: Target
    protocol: str
    tensor: ModelInput
    texts: Sequence[Text]
    warmup: int

    def __post_init__(self) -> None:
        check_texts(self.texts, self.tensor, self.target)


@dataclass(frozen=True)
class Underway:
    """A test under way, all processes together."""

    seconds: float
    sent: int
    answered: int
    failed: int
    recent_ms: Times
    """Latencies that came in since the last look."""


OnProgress = Callable[[Underway], object]


@contextmanager
def client_processes(subject: Subject, count: int) -> Iterator[Clients]:
    """Start processes that are connected and warm; raises the :class:`ClientError` that a request of theirs met."""
    check(subject.texts, processes=count)
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker(subject)) for _ in range(count)]
        for connection in workers:
            _receive(connection, "ready")
        yield Clients(workers)


@dataclass(frozen=True)
class Clients:
    """Processes that wait for a test to take part in; made by :func:`client_processes`."""

    connections: list[Connection]

    def run(self, plan: Plan, on_progress: OnProgress = lambda _: None) -> LoadResult:
        """Run one test, with about 5 calls a second of ``on_progress``; :class:`ClientError` if a process dies.

        In a closed loop with fewer clients than processes, the others have nothing to do.
        """
        parts = self.connections[: plan.clients] if isinstance(plan, Closed) else self.connections
        may_miss = plan.may_miss() if isinstance(plan, Open) else float("inf")
        start = time.perf_counter() + HEAD_START_S
        for number, connection in enumerate(parts):
            connection.send((plan, number, len(parts), start))
        states: dict[Connection, tuple[int, int, int, int]] = dict.fromkeys(parts, (0, 0, 0, 0))
        results: dict[Connection, LoadResult] = {}
        while len(results) < len(parts):
            recent = []
            for ready in wait([c for c in parts if c not in results], timeout=TICK_S):
                connection = next(c for c in parts if c is ready)
                kind, content = _receive(connection, "progress", "result")
                if kind == "result":
                    results[connection] = content
                else:
                    states[connection] = content[0]
                    recent.append(content[1])
            sent, answered, failed, missed = map(sum, zip(*states.values(), strict=True))
            if missed > may_miss:
                for connection in parts:
                    connection.send(STOP)
                may_miss = float("inf")
            if recent:
                on_progress(Underway(time.perf_counter() - start, sent, answered, failed, np.concatenate(recent)))
        return merged([results[connection] for connection in parts])


@contextmanager
def _worker(subject: Subject) -> Iterator[Connection]:
    # spawn, the only start method that all platforms and threaded parents have.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, subject), name="bantam-load-test", daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join(timeout=subject.target.timeout + 5)
        if process.is_alive():
            process.kill()
            process.join()


def _receive(connection: Connection, *expected: str) -> tuple[str, Any]:
    try:
        kind, content = connection.recv()
    except (EOFError, OSError) as exc:
        raise ClientError(
            "A process of the load test ended by itself. Expected a result; memory may be short."
        ) from exc
    if kind not in expected:
        raise content
    return kind, content


def _serve(connection: Connection, subject: Subject) -> None:
    """A process: connect, warm up, then run what is asked for until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent ends us by closing the pipe
    endpoint = ENDPOINTS[subject.protocol](subject.target)
    try:
        requests = [endpoint.request(text, subject.tensor) for text in subject.texts]
        warm_up(endpoint, requests, subject.warmup)
        connection.send(("ready", None))
        # A collection of garbage would stop the clock's hands for milliseconds; the loops make no cycles.
        gc.freeze()
        gc.disable()
        while True:
            order = connection.recv()
            if order != STOP:  # one that came after the end of what it was to stop
                _take_part(connection, endpoint, requests, *order)
                gc.collect()
    except (EOFError, OSError):
        pass  # the parent has had enough, or is no more
    except BantamError as exc:
        connection.send(("failed", exc))
    except Exception as exc:  # noqa: BLE001 whatever it is, the parent is to know and to raise it
        connection.send(("failed", ClientError(f"The load test failed: {type(exc).__name__}: {exc}")))
    finally:
        endpoint.close()


def _take_part(connection: Connection, endpoint: Any, requests: list[bytes], plan: Plan, number: int, of: int,
               start: float) -> None:  # fmt: skip
    """Run a part of a plan in a thread, while this one reports, and listens for the order to stop."""
    tally = Tally(slo_ms=plan.slo_ms) if isinstance(plan, Open) else Tally()
    found: list[LoadResult | Exception] = []

    def run() -> None:
        try:
            found.append(run_part(endpoint, requests, plan, number, of, start, tally))
        except Exception as exc:  # noqa: BLE001 raised again below, in the main thread
            found.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    reported = failed = 0
    while thread.is_alive():
        thread.join(TICK_S)
        try:
            if connection.poll():
                connection.recv()
                tally.stop.set()
            answers = tally.answers[reported:]
            reported += len(answers)
            recent = np.array([1e3 * (a.done - a.due) for a in answers if a.error is None])
            failed += len(answers) - len(recent)
            connection.send(("progress", ((tally.sent, reported, failed, len(tally.missed)), recent)))
        except (EOFError, OSError):
            tally.stop.set()
            thread.join()
            raise
    if isinstance(found[0], Exception):
        raise found[0]
    connection.send(("result", found[0]))
