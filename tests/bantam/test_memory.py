"""Looking at memory: never while something is timed, and what a container may have."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bantam.memory import MemoryWatch, available_mb


def test_nobody_looks_at_memory_while_something_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    monkeypatch.setattr(MemoryWatch, "_sample", lambda self: looks.append(time.monotonic()))
    with MemoryWatch(interval_s=0.001) as watch:
        with watch.paused():
            before = len(looks)
            time.sleep(0.05)
            assert len(looks) == before
        assert len(looks) > before


def test_a_container_s_limit_is_what_can_be_had(tmp_path: Path) -> None:
    assert available_mb(tmp_path) > 1.0, "no limit: the machine's"
    (tmp_path / "memory.max").write_text("max\n")
    assert available_mb(tmp_path) > 1.0
    (tmp_path / "memory.max").write_text("9000000\n")
    (tmp_path / "memory.current").write_text("8500000\n")
    (tmp_path / "memory.stat").write_text("anon 8000000\nactive_file 1\ninactive_file 400000\n")
    assert available_mb(tmp_path) == pytest.approx(0.9)
