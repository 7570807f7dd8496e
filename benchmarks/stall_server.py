"""A KServe v2 server whose latency is known: so many milliseconds, and a stall in which it answers nothing.

``python -m benchmarks.stall_server --service-ms 5 --stall 2:4`` listens on a free port of loopback and prints it.
The stall begins and ends so many seconds after the first request that follows ``--skip`` (the tester's warm-up). What
comes in during the stall is answered when it is over. Requests do not wait for each other. Answers are empty: the load
tester does not read them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
THREADS = 1000
Times = np.ndarray[tuple[int], np.dtype[np.float64]]
Wait = Callable[[], object]
"""Called for each request, in a thread of its own; it is answered when the call returns."""


@dataclass(frozen=True)
class Known:
    """A server's latency, in seconds."""

    service: float
    stall: tuple[float, float]

    def latencies_ms(self, due: Times) -> Times:
        """Milliseconds that requests sent at ``due`` take."""
        begin, end = self.stall
        return 1e3 * (np.where((due >= begin) & (due < end), end - due, 0.0) + self.service)

    def quantile_ms(self, percent: float, seconds: float) -> float:
        """A percentile over all moments of a test of ``seconds``: of what a request takes that comes at any of them."""
        begin, end = self.stall
        beyond = seconds * (1 - percent / 100)
        return 1e3 * (max(0.0, (end - begin) - beyond) + self.service)


class Stalling:
    """Waits as :class:`Known` says."""

    def __init__(self, known: Known, skip: int) -> None:
        self._known, self._skip, self._start = known, skip, 0.0
        self._first = threading.Lock()

    def __call__(self) -> None:
        """Wait for one request."""
        now = time.perf_counter()
        with self._first:
            self._skip -= 1
            if self._skip == -1:
                self._start = now
        begin, end = self._known.stall
        if self._start and begin <= now - self._start < end:
            time.sleep(self._start + end - now)
        time.sleep(self._known.service)


class AnyCall(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every call with no bytes, once ``wait`` has returned."""

    def __init__(self, wait: Wait) -> None:
        self._wait = wait

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Bytes in, bytes out."""

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            self._wait()
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


class AnyPost(BaseHTTPRequestHandler):
    """The same over HTTP."""

    protocol_version = "HTTP/1.1"
    wait: Wait

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def do_POST(self) -> None:
        """Answer."""
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).wait()
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


class HttpServer(ThreadingHTTPServer):
    """A thread for each connection."""

    daemon_threads = True
    request_queue_size = 128  # with the usual 5, the kernel drops the other connections of a burst for seconds


@contextmanager
def serving(wait: Wait, protocol: str = "grpc") -> Iterator[str]:
    """A server in this process; gives its address."""
    if protocol == "grpc":
        server = grpc.server(ThreadPoolExecutor(THREADS), handlers=(AnyCall(wait),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(grace=None).wait()
    else:
        with HttpServer(("127.0.0.1", 0), type("Waiting", (AnyPost,), {"wait": staticmethod(wait)})) as http:
            thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield f"127.0.0.1:{http.server_address[1]}"
            finally:
                http.shutdown()
                thread.join()


@contextmanager
def running(known: Known, *, protocol: str = "grpc", skip: int) -> Iterator[str]:
    """A server in a process of its own; gives its address."""
    options = ["--service-ms", str(1e3 * known.service), "--stall", "{}:{}".format(*known.stall)]
    command = [
        sys.executable,
        "-m",
        "benchmarks.stall_server",
        *options,
        "--protocol",
        protocol,
        "--skip",
        str(skip),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def main() -> None:
    """Serve until standard input closes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--service-ms", type=float, required=True)
    parser.add_argument("--stall", required=True)
    parser.add_argument("--protocol", choices=["grpc", "http"], default="grpc")
    parser.add_argument("--skip", type=int, default=0)
    options = parser.parse_args()
    begin, end = map(float, options.stall.split(":"))
    with serving(Stalling(Known(options.service_ms / 1e3, (begin, end)), options.skip), options.protocol) as address:
        print(address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
