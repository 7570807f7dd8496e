"""Looking at memory: never while something is timed, what a container may have, and the peak of a part of the work."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from bantam.memory import MemoryWatch, available_mb, peak_rss_mb, with_peak

SIZE = 200_000_000


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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts anew")
def test_a_peak_is_that_of_the_call_alone_and_the_process_keeps_its_own() -> None:
    count, large = with_peak(lambda: len(bytearray(SIZE)))
    assert count == SIZE
    small = with_peak(lambda: None)[1]
    again = with_peak(lambda: len(bytearray(SIZE // 2)))[1]
    assert 0.9 * SIZE / 1e6 < large - small < 1.5 * SIZE / 1e6
    assert 0.8 * SIZE / 2e6 < again - small < large - small
    assert peak_rss_mb() >= large
