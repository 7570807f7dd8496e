"""How many cores there are for this process, and for one text, and what they lack. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class TextThreads(NamedTuple):
    """What a text that runs alone runs on: waking a thread at each operator costs what a short text does not win."""

    threads: int
    """Of a text of at least ``tokens`` tokens."""
    tokens: int
    """A shorter one runs on one thread."""
    cores: int
    """The threads that there were in all where this was measured. It says nothing of a machine that has others."""


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Whole cores that this process may use: its affinity mask and its container's CPU quota, not the machine's count.

    A quota of 1.5 cores is one: a second thread would be throttled half of the time. ``cgroup``: where the container's
    limits (cgroup v2) are.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2 here: no quota to keep
    return cores


def int8_saturates(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether sums of two products of uint8 and int8 are cut at 16 bits here: an x86-64 with AVX2 and without VNNI.

    False where that cannot be read (Windows, macOS).
    """
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return "avx2" in flags and not {"avx_vnni", "avx512_vnni"} & {*flags}
