"""CPU and memory of the server under test, if it is a process of this machine."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import NamedTuple

import psutil


class Usage(NamedTuple):
    """What the server's processes took between two moments."""

    cores: float
    """CPU time over wall time: 2.0 is two cores all the time."""
    peak_mb: float
    """Most resident memory of all its processes together that was seen, in 10^6 bytes; shared pages count for each."""
    processes: int


class HostWatch:
    """Samples the process that listens on an address, and its children.

    A test calls :meth:`start`, :meth:`sample` now and then, and :meth:`stop`. ``reason`` says why there is nothing to
    sample; it is None if there is.
    """

    def __init__(self, address: str) -> None:
        self.reason: str | None = None
        self._process: psutil.Process | None = None
        host, _, port = address.rpartition(":")
        if not _is_here(host.strip("[]")):
            self.reason = f"{host} is another machine"
        else:
            pid = _listener(int(port))
            if pid is None:
                self.reason = f"no process that we may see listens on port {port} of this machine"
            else:
                self._process = psutil.Process(pid)
        self._cpu_s: dict[int, float] = {}
        self._before: dict[int, float] = {}
        self._peak = 0
        self._processes = 0

    def start(self) -> None:
        """Forget what was seen, and begin."""
        self._cpu_s, self._peak = {}, 0
        self.sample()
        self._before = dict(self._cpu_s)

    def sample(self) -> None:
        """Look at the processes once."""
        if self._process is None:
            return
        resident = 0
        with contextlib.suppress(psutil.Error):  # one that has just ended has left its last sample
            family = [self._process, *self._process.children(recursive=True)]
            self._processes = len(family)
            for process in family:
                times = process.cpu_times()
                self._cpu_s[process.pid] = times.user + times.system
                resident += process.memory_info().rss
        self._peak = max(self._peak, resident)

    def stop(self, seconds: float) -> Usage | None:
        """What was used since the start, ``seconds`` ago; None if there was nothing to look at."""
        self.sample()
        if not self._cpu_s:
            return None
        used = sum(total - self._before.get(pid, 0.0) for pid, total in self._cpu_s.items())
        return Usage(used / seconds, self._peak / 1e6, self._processes)


def _is_here(host: str) -> bool:
    """Whether an address or name is one of this machine's own."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    own = {address.address.partition("%")[0] for each in psutil.net_if_addrs().values() for address in each}
    return any(ipaddress.ip_address(address.partition("%")[0]).is_loopback or address in own for address in found)


def _listener(port: int) -> int | None:
    """The process that listens on a TCP port; None if there is none, or we may not know."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:  # macOS tells root only
        return None
    listening = (c for c in connections if c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port)
    return next((connection.pid for connection in listening if connection.pid), None)
