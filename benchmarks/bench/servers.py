"""The served contenders: started, scored through the server, timed by one client in interleaved rounds, weighed."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bantam.errors import BantamError, ClientError, ServerError
from bantam.loadtest.closed_loop import closed_loop
from bantam.memory import peak_rss_mb
from benchmarks.bench.clients import CLIENTS, MODEL, Client
from benchmarks.bench.driver import BATCH, WAKE_UP
from benchmarks.bench.guardian import Guardian
from benchmarks.bench.prepared import Prepared, Scores
from benchmarks.bench.process import PeerFailed, PeerProcess, pause, resume, resumed, tree
from benchmarks.bench.rounds import Check, TimedContender, checked, interleave
from benchmarks.bench.workloads import Workload
from serving.ports import free_ports
from serving.repository import publish
from serving.server import Server

HOST = "127.0.0.1"
START_TIMEOUT_S = 180.0
CLIENTS_AT_ONCE = 16
PORTS = 3
"""In a row: some servers have one for each protocol."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    pid: int
    port: int
    protocol: str
    labels: tuple[str, ...]

    def client(self) -> Client:
        """A new connection."""
        return CLIENTS[self.protocol](self.port, self.labels)

    def peak_rss_mb(self) -> float:
        """The most memory that each of its processes has had, summed, in 10^6 bytes; shared pages count for each."""
        total = 0.0
        for process in tree(self.pid):
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                total += peak_rss_mb(process.pid)
        return total


def start(
    prepared: Prepared, labels: tuple[str, ...], root: Path, stack: ExitStack, guardian: Guardian
) -> tuple[Running, float]:
    """Start a server and wait for its first real answer: the server, and the seconds that it took.

    It ends with ``stack``, or with the bench if that is killed. Raises :class:`PeerFailed`.
    """
    started, port = time.monotonic(), ports()
    with ExitStack() as until_ready:
        process = None
        if prepared.ours is not None:
            pid = _publish_and_start(prepared, root, port, until_ready)
        else:
            process = prepared.process("serve", "--port", str(port))
            until_ready.callback(process.stop, grace_s=15.0)
            pid = process.pid
            guardian.watch(pid)
        running = Running(pid, port, prepared.contender.protocol, labels)
        _wait(running, process, started + START_TIMEOUT_S)
        stack.push(until_ready.pop_all())
    return running, time.monotonic() - started


def ports() -> int:
    """The first of some free ports in a row."""
    while True:
        first = random.randrange(20000, 30000)
        with contextlib.suppress(ServerError):
            free_ports(HOST, {str(number): first + number for number in range(PORTS)})
            return first


def _publish_and_start(prepared: Prepared, root: Path, port: int, stack: ExitStack) -> int:
    """Bantam's own server with one variant."""
    assert prepared.ours is not None
    repository, options = root / "repositories" / prepared.contender.slug, prepared.contender.options
    publish(prepared.ours, repository, MODEL, thresholds=None, link=True, **options)
    server = Server(repository, models=[MODEL], grpc_port=port, http_port=port + 1, metrics_port=port + 2)
    try:
        stack.enter_context(server)
    except ServerError as exc:
        raise PeerFailed("serve", str(exc).splitlines()[-1].strip()) from exc
    assert server.pid is not None
    # Before the server's own stop, which waits for processes that are then running.
    stack.callback(resume, server.pid)
    return server.pid


def _wait(running: Running, process: PeerProcess | None, deadline: float) -> None:
    """Ask until there is an answer."""
    while True:
        client = running.client()
        try:
            client.scores(["Are you there?"])
            return
        except BantamError as exc:
            if process is not None and process.poll() is not None:
                process.answer("serve")  # raises what it said
            if time.monotonic() > deadline:
                raise PeerFailed("serve", f"no answer within {START_TIMEOUT_S:.0f} s: {exc}") from exc
        finally:
            client.close()
        time.sleep(0.2)


def scored(running: Running, texts: Sequence[str]) -> Scores:
    """The scores of all texts through the server, in batches by a few clients at a time. Raises :class:`PeerFailed`."""
    batches = [list(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    with _client_each(running) as send, ThreadPoolExecutor(2) as pool, resumed(running.pid):
        try:
            return np.concatenate(list(pool.map(send, batches)))
        except ClientError as exc:
            raise PeerFailed("scores", str(exc)) from exc


@contextlib.contextmanager
def _client_each(running: Running) -> Iterator[Callable[[list[str]], Scores]]:
    """A function that sends texts, over a connection for each thread that calls it."""
    local = threading.local()
    clients: list[Client] = []

    def send(texts: list[str]) -> Scores:
        if not hasattr(local, "client"):
            local.client = running.client()
            clients.append(local.client)
        client: Client = local.client
        return client.scores(texts)

    try:
        yield send
    finally:
        for client in clients:
            client.close()


def timed(
    servers: Mapping[str, Running], workloads: Sequence[Workload], check: Check, log: Log
) -> list[dict[str, TimedContender]]:
    """Time every text of each workload alone with one client, then let several keep the server busy for some seconds a
    round. The peak of memory is that of the first workload. One that fails at a workload is out from then on.
    """
    results = [{name: TimedContender() for name in servers} for _ in workloads]

    def turn(running: Running, work: Workload) -> tuple[list[float], float]:
        texts = work.texts
        try:
            with resumed(running.pid), _client_each(running) as send:
                one = closed_loop(lambda text: send([text]), texts, requests=len(texts), warmup=WAKE_UP)
                many = closed_loop(
                    lambda text: send([text]), texts, seconds=work.seconds, clients=CLIENTS_AT_ONCE, warmup=WAKE_UP
                )
        except ClientError as exc:
            raise PeerFailed("serve", str(exc)) from exc
        for result in (one, many):
            if result.errors:
                raise PeerFailed("serve", f"of {len(result.due)} requests failed: {result.errors}")
        return one.latencies_ms.tolist(), many.texts_per_s

    for running in servers.values():
        pause(running.pid)
    for work, found in zip(workloads, results, strict=True):
        for name, running in servers.items():
            checked(name, work, partial(scored, running), check, found[name], log)
        interleave({name: partial(turn, running, work) for name, running in servers.items()}, found, work, log)
        servers = {name: running for name, running in servers.items() if found[name].failure is None}
        if found is results[0]:
            for name, running in servers.items():
                found[name].peak_rss_mb = running.peak_rss_mb()
    return results
