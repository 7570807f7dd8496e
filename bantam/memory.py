"""Memory: the peak of a process, that of a run with all the processes it starts, and what is left. In MB (10^6 bytes).

Standard library only at import time: the benchmark's peers measure themselves with it in environments of their own.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

_before = [0.0]
"""The most that this process had until the system last began to count anew."""


def peak_rss_mb(pid: int | None = None) -> float:
    """The most memory that a process has had; this one if ``pid`` is left out, others on Linux only.

    Raises :class:`ProcessLookupError` if it has ended.
    """
    return _counted(pid) if pid else max(*_before, _counted())


def with_peak(make: Callable[[], T]) -> tuple[T, float]:
    """What ``make`` returns, and the most memory that this process had meanwhile.

    On Linux; elsewhere nobody counts anew, and the figure is the most since the process began.
    """
    _before[0] = peak_rss_mb()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return make(), _counted()


def give_back() -> None:
    """What was freed goes back to the system: the C library would keep gigabytes of a training for later."""
    gc.collect()
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def _counted(pid: int | None = None) -> float:
    """What the system says of a process: the most since it began, or since it was told to count anew."""
    system = sys.platform
    if system == "linux":
        # Not getrusage: its figure starts at that of the process that started this one.
        try:
            status = Path(f"/proc/{pid or 'self'}/status").read_text(encoding="ascii")
            return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
        except (FileNotFoundError, IndexError) as exc:
            raise ProcessLookupError(f"process {pid} has ended") from exc
    import psutil

    if system == "win32":
        return float(psutil.Process().memory_info()._asdict()["peak_wset"] / 1e6)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def available_mb(cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """What can be had without swapping: of the machine, or of what the container's limit leaves if that is less.

    ``cgroup``: where the container's limits (cgroup v2) are. Its count of used memory has the page cache in it; the
    part that nobody looked at lately is given up when memory is wanted, and counts as available.
    """
    import psutil

    free: int = psutil.virtual_memory().available
    try:
        limit = (cgroup / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            used = int((cgroup / "memory.current").read_text(encoding="ascii"))
            statistics = (cgroup / "memory.stat").read_text(encoding="ascii")
            cache = int(statistics.split("\ninactive_file ")[1].split()[0])
            free = min(free, max(0, int(limit) - used + cache))
    except (OSError, ValueError, IndexError):
        pass  # no cgroup v2 here: no limit to keep
    return free / 1e6


class MemoryWatch:
    """Samples the memory of this process and its children while the block runs; a context manager.

    Pages that several processes share count once for each, so the figure errs on the high side; a peak shorter than the
    interval can be missed in a child, never in this process.
    """

    def __init__(self, interval_s: float = 1.0) -> None:
        self._interval, self._peak, self._stop = interval_s, 0, threading.Event()
        self._sampling = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="memory-watch", daemon=True)

    @property
    def peak_mb(self) -> float:
        """The most that all processes together have had so far."""
        return max(self._peak / 1e6, peak_rss_mb())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No sample is taken inside the block, but one before and one after it: looking costs those who are timed."""
        with self._sampling:
            self._sample()
            yield
            self._sample()

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            with self._sampling:
                self._sample()

    def _sample(self) -> None:
        import psutil

        me, total = psutil.Process(os.getpid()), 0
        for process in [me, *me.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue  # it ended between the listing and the look
        self._peak = max(self._peak, total)
