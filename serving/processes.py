"""The processes of a running Triton: memory, processor time, and which of them have ended."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import psutil

from bantam.memory import peak_rss_mb
from serving.tritonserver import STUB

TRITON = "tritonserver"
WINDOW_S = 0.3
"""How far back processor time is looked at."""
BUSY_SHARE = 0.1
"""Of one core. The system counts in hundredths of a second, and a Triton that waits takes one each second."""


class Memory(NamedTuple):
    """Memory of one process, in MB (10^6 bytes)."""

    rss: float
    peak: float
    """The most that was ever resident."""


def roles(pid: int) -> dict[str, int]:
    """Process ids by role: Triton itself (``tritonserver``), and each isolated model by its name."""
    found = {TRITON: pid}
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            command = child.cmdline()
            if len(command) > 1 and Path(command[0]).name == STUB:
                found[Path(command[1]).parents[1].name] = child.pid  # <repository>/<model>/<version>/model.py
    return found


def memory_of(pid: int) -> Memory:
    """Memory of a process."""
    return Memory(psutil.Process(pid).memory_info().rss / 1e6, peak_rss_mb(pid))


class Effort:
    """What the processes of one Triton do: looked at again and again, with :meth:`look`."""

    def __init__(self, pid: int, isolated: Collection[str]) -> None:
        """``isolated``: the models that have a process each."""
        self._pid = pid
        self._roles = (TRITON, *isolated)
        self._processes: dict[str, psutil.Process] = {}
        self._seen: deque[tuple[float, dict[str, float]]] = deque()
        self._worked: dict[str, float] = {}
        self._known: set[str] = set()
        self._missing: set[str] = set()

    def look(self) -> set[str]:
        """Look at them now; returns the roles that have no process any more, for the second time.

        One that was never found has not ended: another Triton may start its processes in another way.
        """
        used = self._used()
        if any(role not in used for role in self._roles):
            # Also after a model was loaded again, which gives it another process.
            with contextlib.suppress(psutil.Error):
                self._processes = {role: psutil.Process(pid) for role, pid in roles(self._pid).items()}
            used = self._used()
        now = time.monotonic()
        self._seen.append((now, used))
        while len(self._seen) > 2 and now - self._seen[1][0] >= WINDOW_S:
            self._seen.popleft()
        before, old = self._seen[0]
        for role in self._roles:
            if used.get(role, 0.0) - old.get(role, 0.0) > BUSY_SHARE * max(now - before, WINDOW_S):
                self._worked[role] = now
        self._known |= used.keys()
        missing, self._missing = self._missing, self._known.intersection(self._roles) - used.keys()
        return missing & self._missing

    def idle_s(self, model: str) -> float:
        """For how long the process that holds the model has done nothing; 0 if it works."""
        role = model if model in self._known else TRITON
        return self._seen[-1][0] - self._worked.get(role, 0.0)

    def _used(self) -> dict[str, float]:
        """Seconds of processor time by role, of those that live."""
        used = {}
        for role, process in self._processes.items():
            with contextlib.suppress(psutil.Error):
                if process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                    times = process.cpu_times()
                    used[role] = times.user + times.system
        return used


def reap(ours: Collection[int]) -> list[int]:
    """Wait for the dead children that nobody waits for, except ``ours``; returns their process ids.

    The first process of a container inherits the children of all that end before these do.
    """
    reaped = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error, ChildProcessError):
            if child.pid not in ours and child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)
                reaped.append(child.pid)
    return reaped
