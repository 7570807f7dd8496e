"""Whom processes speak with: looked at again and again while they run."""

from __future__ import annotations

import contextlib
import ipaddress
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil


def is_here(address: str) -> bool:
    """Whether it is one of this machine alone."""
    return ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback


@dataclass
class Connections:
    """Those of a process and of all that it has started."""

    every_s: float = 0.1
    looks: int = 0
    here: set[str] = field(default_factory=set)
    """Names of processes that spoke with this machine."""
    elsewhere: set[str] = field(default_factory=set)
    """Names of processes that spoke with others, or tried to, and with whom."""

    @contextmanager
    def of(self, pid: int) -> Iterator[None]:
        """Look at them in the block."""
        stopped = threading.Event()

        def look() -> None:
            while not stopped.wait(self.every_s):
                with contextlib.suppress(psutil.Error):  # it has ended
                    process = psutil.Process(pid)
                    for each in (process, *process.children(recursive=True)):
                        self._look_at(each)
                    self.looks += 1

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()

    def _look_at(self, process: psutil.Process) -> None:
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections("inet"):
                if connection.raddr and is_here(connection.raddr.ip):
                    self.here.add(process.name())
                elif connection.raddr:
                    self.elsewhere.add(f"{process.name()}: {connection.raddr}")
