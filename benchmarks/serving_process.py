"""``bantam serve`` in a process of its own, for whoever looks at it from outside: benchmarks and tests."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parents[1]
SECONDS = 90.0
PORTS = ("--grpc-port", "0", "--http-port", "0")
WATCH_PORT = ("--watch-port", "0")


@dataclass(frozen=True)
class Serving:
    """A server that has announced itself."""

    process: subprocess.Popen[str]
    announced: dict[str, Any]

    @property
    def grpc(self) -> str:
        """Where it answers over gRPC."""
        return str(self.announced["grpc"])

    def tree(self) -> list[psutil.Process]:
        """Its processes: `bantam serve` first."""
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def triton(self) -> psutil.Process:
        """Its Triton, as it is now."""
        return next(each for each in self.tree() if each.name().startswith("tritonserver"))

    def page(self, path: str) -> tuple[int, str]:
        """What its watch says."""
        host, port = self.announced["watch"].split(":")
        with closing(http.client.HTTPConnection(host, int(port), timeout=30)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def until(self, ready: bool, restarts: int = 0, seconds: float = SECONDS) -> None:
        """Wait until /ready says so, after at least so many restarts. Raises ``TimeoutError``."""
        deadline = time.monotonic() + seconds
        while (found := json.loads(self.page("/ready")[1]))["ready"] != ready or found["restarts"] < restarts:
            if time.monotonic() > deadline:
                raise TimeoutError(f"/ready says {found}")
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        """Send all its processes a signal, such as SIGSTOP and SIGCONT."""
        for each in self.tree():
            with contextlib.suppress(psutil.Error):
                each.send_signal(number)


@contextmanager
def starting(
    repository: Path,
    options: Sequence[str] = (),
    *,
    checkout: Path = HERE,
    ports: Sequence[str] = (*PORTS, *WATCH_PORT),
) -> Iterator[subprocess.Popen[str]]:
    """The process; in the end it is told to stop, and killed if it does not."""
    command = [sys.executable, "-m", "bantam", "serve", "--json", "--repository", str(repository.resolve())]
    with subprocess.Popen(
        [*command, *ports, *options],
        env={**os.environ, "PYTHONPATH": str(checkout)},
        cwd=checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(psutil.Error):
                for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
                    each.resume()
            process.terminate()
            try:
                process.communicate(timeout=SECONDS)
            except (subprocess.TimeoutExpired, ValueError):
                process.kill()


@contextmanager
def bantam_serve(repository: Path, options: Sequence[str] = (), **where: Any) -> Iterator[Serving]:
    """The same once it has announced itself."""
    with starting(repository, options, **where) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith('{"grpc"'):
            raise ChildProcessError(f"bantam serve ended: {line} {process.communicate()[1]}")
        yield Serving(process, json.loads(line))
