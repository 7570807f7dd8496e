"""A KServe v2 server whose latency is known: so many milliseconds, and a stall in which it answers nothing.

``python -m tests.loadtest.stall_server --service-ms 5 --stall 2:4`` listens on a free port of loopback and prints it.
The stall begins and ends so many seconds after the first request that follows ``--skip`` (the tester's warm-up). What
comes in during the stall is answered when it is over. Requests do not wait for each other.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.client.fake_kserve import Fake, Script

ROOT = Path(__file__).resolve().parents[2]
Times = np.ndarray[tuple[int], np.dtype[np.float64]]


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


class Stalling(Script):
    """Sleeps as :class:`Known` says."""

    def __init__(self, known: Known, skip: int) -> None:
        super().__init__()
        self._known, self._skip, self._start = known, skip, 0.0
        self._first = threading.Lock()

    def scores(self, raw: bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
        now = time.perf_counter()
        with self._first:
            self._skip -= 1
            if self._skip == -1:
                self._start = now
        begin, end = self._known.stall
        if self._start and begin <= now - self._start < end:
            time.sleep(self._start + end - now)
        time.sleep(self._known.service)
        return super().scores(raw)


@contextmanager
def running(known: Known, *, protocol: str = "grpc", skip: int) -> Iterator[str]:
    """A server in a process of its own; gives its address."""
    options = ["--service-ms", str(1e3 * known.service), "--stall", "{}:{}".format(*known.stall)]
    command = [
        sys.executable,
        "-m",
        "tests.loadtest.stall_server",
        *options,
        "--protocol",
        protocol,
        "--skip",
        str(skip),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"127.0.0.1:{process.stdout.readline().strip()}"
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
    fake = Fake(options.protocol, Stalling(Known(options.service_ms / 1e3, (begin, end)), options.skip), threads=1000)
    print(fake.port, flush=True)
    sys.stdin.read()
    fake.stop()


if __name__ == "__main__":
    main()
