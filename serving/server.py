"""Starts and stops Triton: loopback only, ready when it answers, nothing left behind.

::

    with Server(Path("model_repo")) as server:
        print(server.grpc_address)
"""

from __future__ import annotations

import http.client
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from bantam.errors import ServerError
from serving import gpu, processes, supervisor, tritonserver
from serving import repository as model_repository
from serving.follower import Follower
from serving.ports import free_ports
from serving.processes import TRITON, Memory
from serving.repository import Version
from serving.settings import Settings
from serving.view import View, chosen

START_TIMEOUT_S = 180.0
POLL_S = 0.05
FOLLOW_S = 0.1
"""How often a server looks for what has been promoted."""
LOOPBACK = "127.0.0.1"
MARGIN_S = 10.0
"""How much longer than its own grace period the supervisor may take to end Triton."""


class Server:
    """A Triton that serves the models of a repository from ``start`` (or ``with``) to ``stop``.

    ``models``: names; all that are published if absent. ``staged``: versions to serve instead of the promoted ones, so
    that their answers can be checked first; ``models`` are theirs if absent. ``follow``: in :meth:`wait`, serve what is
    promoted meanwhile. ``host``: where gRPC listens; ``http_host``: where HTTP and the metrics do, which Triton answers
    with code of its own that has had holes: not for other machines to reach. Ports: 0 takes a free one. ``python``: the
    interpreter of a serving environment, instead of Triton from PATH or of the default one. ``isolated``: each model in
    a process of its own, so that one that crashes leaves the others alone; otherwise all run in Triton's process, where
    a text is answered sooner (:mod:`serving.inline`). Started again, it has the same
    ports, and with ``follow`` serves what it served.
    """

    def __init__(
        self,
        repository: Path,
        *,
        models: Sequence[str] | None = None,
        staged: Sequence[Version] = (),
        follow: bool = False,
        host: str = LOOPBACK,
        http_host: str = LOOPBACK,
        grpc_port: int = 0,
        http_port: int = 0,
        metrics_port: int = 0,
        python: Path | None = None,
        isolated: bool = False,
        settings: Settings | None = None,
        timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self.repository = repository
        self._staged = {version.name: version for version in staged}
        self.models = tuple(models if models is not None else self._staged or model_repository.models(repository))
        self._follow = follow
        self._view: View | None = None
        self._follower: Follower | None = None
        self._read: dict[str, tuple[int, int]] = {}
        self.http_host = http_host
        self._hosts = {"gRPC": host, "HTTP": http_host, "metrics": http_host}
        self._wanted_ports = {"gRPC": grpc_port, "HTTP": http_port, "metrics": metrics_port}
        self._python = python
        self._timeout_s = timeout_s
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._run_dir: Path | None = None
        self._ports: dict[str, int] = {}
        self.pid: int | None = None
        """Triton's process id while it runs."""
        self._isolated = isolated
        self.settings = settings or Settings()
        self.backend = tritonserver.Backend(None, isolated, "")
        """How the models run."""
        self.token = secrets.token_hex(16)  # by which the models know the watch's requests

    @property
    def grpc_address(self) -> str:
        """``host:port``."""
        return self._address("gRPC")

    @property
    def http_address(self) -> str:
        """``host:port``."""
        return self._address("HTTP")

    @property
    def metrics_address(self) -> str:
        """``host:port``; Prometheus text at ``/metrics``."""
        return self._address("metrics")

    @property
    def log(self) -> Path:
        """What Triton writes; removed by :meth:`stop`."""
        if self._run_dir is None:
            raise ServerError("Triton is not running, so it has no log. Call start() first.")
        return self._run_dir / "triton.log"

    @property
    def counts(self) -> Path:
        """Folder of what its models count; removed by :meth:`stop`."""
        return self.log.with_name("counts")

    def start(self) -> Self:
        """Start Triton and wait until all models are ready.

        Raises :class:`ServerError` if there is no Triton or GPU here, no such model, a port in use, or if Triton or a
        model does not come up in time; the message then has the lines of Triton's log that say why.
        """
        versions = chosen(self.repository, self.models, {**self._staged, **self._shown_before()})
        gpu.check(self.settings.target)
        installation = tritonserver.find(self._python)
        supervisor.sweep()
        self._ports = free_ports(self._hosts, self._ports or self._wanted_ports)
        self._run_dir, lock = supervisor.create()
        try:
            folder = self._run_dir / "backends" / "python"
            self.backend = tritonserver.lay_out(installation, folder, isolated=self._isolated)
            self._view = View(self._run_dir, versions, self.settings.target, inline=not self.backend.isolated)
            endpoints = {protocol: (self._hosts[protocol], port) for protocol, port in self._ports.items()}
            self.counts.mkdir()
            command = (
                tritonserver.command(
                    installation, self.backend, self._view.models, self._run_dir, endpoints, poll=self._follow
                )
                + self.settings.options()
            )
            self._supervisor = subprocess.Popen(
                [sys.executable, "-I", supervisor.__file__, str(self._run_dir), str(lock), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,  # what select() sees is all there is
                pass_fds=[lock],
                env={**tritonserver.environment(installation), **self.settings.environment(self.counts, self.token)},
                start_new_session=True,  # Ctrl-C in a terminal is for us; we stop Triton in order
            )
            self._wait_until_ready()
            if self._follow:
                self._follower = Follower(
                    self.repository, self._view, self.log, self._has_loaded, self._timeout_s, self._read
                )
        except BaseException:
            self.stop()
            raise
        finally:
            os.close(lock)  # the supervisor holds it now
        return self

    def stop(self) -> None:
        """Stop Triton and wait until nothing of it is left. Does nothing if it is not running."""
        process, self._supervisor, self.pid, self._follower = self._supervisor, None, None, None
        if process is not None and process.stdin is not None and process.stdout is not None:
            process.stdin.close()  # the supervisor stops Triton in order, or by force if that takes too long
            try:
                process.wait(supervisor.GRACE_S + MARGIN_S)
            except subprocess.TimeoutExpired:
                process.kill()  # takes Triton with it
                process.wait()
            process.stdout.close()
        if self._run_dir is not None:
            supervisor.remove(self._run_dir)
            self._run_dir = None

    def kill(self) -> None:
        """End Triton and its models' processes at once: whoever is in :meth:`wait` is told that it has ended."""
        self._signal(signal.SIGKILL)

    def pause(self) -> None:
        """Stop Triton, waiting for that, and its models' processes until they are resumed: idle ones disturb."""
        supervisor.wait_until_stopped(self._signal(signal.SIGSTOP))

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """A paused server runs inside the block."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.pause()

    def wait(self, log: Callable[[str], None] = lambda _: None) -> None:
        """Block as long as Triton runs; with ``follow``, serve what is promoted meanwhile, and say so to ``log``.

        A version that cannot be loaded is not served: the one before goes on. Raises :class:`ServerError` when Triton
        has ended without having been told to.
        """
        while self._supervisor is not None:
            self._raise_if_ended("stopped by itself", FOLLOW_S if self._follower else None)
            for line in self._follower.step() if self._follower else ():
                log(line)

    def children(self) -> set[int]:
        """Process ids of what this process has to wait for, as its parent."""
        process = self._supervisor
        return set() if process is None else {process.pid}

    def memory(self) -> dict[str, Memory]:
        """Memory of Triton itself (``tritonserver``), and of each isolated model's process (the model's name)."""
        if self.pid is None:
            raise ServerError("Triton is not running, so it uses no memory. Call start() first.")
        return {role: processes.memory_of(pid) for role, pid in processes.roles(self.pid).items()}

    def model_memory(self, name: str) -> Memory:
        """Memory of the process that holds the model: its own, or Triton's."""
        memory = self.memory()
        return memory.get(name, memory[TRITON])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _shown_before(self) -> dict[str, Version]:
        """What a follower served until now, as far as it is there: what could not be loaded stays out."""
        shown = self._view.shown if self._follow and self._view is not None else {}
        return {name: version for name, version in shown.items() if version.folder.is_dir()}

    def _signal(self, number: signal.Signals) -> int:
        if self.pid is None:
            raise ServerError("Triton is not running, so it cannot be paused. Call start() first.")
        with suppress(ProcessLookupError):  # it has ended by itself: whoever asks it something is told so
            os.killpg(self.pid, number)  # its supervisor made it the leader of a group
        return self.pid

    def _address(self, protocol: str) -> str:
        return f"{self._hosts[protocol]}:{self._ports[protocol]}"

    def _wait_until_ready(self) -> None:
        """Triton opens its ports when it has tried to load all models: then each is ready, or never will be."""
        deadline = time.monotonic() + self._timeout_s
        line = self._read_line()
        if not line:
            raise ServerError(f"Triton did not start: {self._reasons() or 'its supervisor ended at once.'}")
        self.pid = int(line)
        while not self._get("/v2/health/live"):
            self._raise_if_ended("did not start", POLL_S)
            if time.monotonic() > deadline:
                raise ServerError(f"Triton was not ready after {self._timeout_s:.0f} s.{self._reasons()}")
        failed = [name for name in self.models if not self._get(f"/v2/models/{name}/ready")]
        if failed:
            raise ServerError(f"Triton could not load {', '.join(failed)}.{self._reasons()}")

    def _has_loaded(self, version: Version) -> bool:
        """Whether a version is ready; waits a moment if it is not. Raises :class:`ServerError` if Triton has ended."""
        ready = self._get(f"/v2/models/{version.name}/versions/{version.number}/ready")
        if not ready:
            self._raise_if_ended("stopped by itself", POLL_S)
        return ready

    def _raise_if_ended(self, what: str, timeout_s: float | None) -> None:
        """Wait for the end of Triton or its supervisor, at most so long; raise :class:`ServerError` if it came."""
        line = self._read_line(timeout_s)
        if line is not None and self._supervisor is not None:  # else it was told to, by another thread
            how = f"exit code {line}" if line else "and its supervisor with it"
            raise ServerError(f"Triton {what}, {how}.{self._reasons()}")

    def _read_line(self, timeout_s: float | None = None) -> str | None:
        """A line from the supervisor, an empty one if it has ended, or None if there was none in time."""
        process = self._supervisor
        if process is None or process.stdout is None:
            return ""
        readable, _, _ = select.select([process.stdout], [], [], timeout_s)
        return process.stdout.readline().decode().strip() if readable else None

    def _get(self, path: str) -> bool:
        """True if Triton answers 200."""
        connection = http.client.HTTPConnection(self._hosts["HTTP"], self._ports["HTTP"], timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False  # not listening yet
        finally:
            connection.close()

    def _reasons(self) -> str:
        """The lines of the log that matter, indented below the message."""
        log = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "".join(f"\n  {line}" for line in tritonserver.reasons(log))
