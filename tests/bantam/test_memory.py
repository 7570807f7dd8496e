"""The peak of a part of a process's life, and of all of it."""

from __future__ import annotations

import sys

import pytest

from bantam.memory import peak_rss_mb, with_peak

SIZE = 200_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts anew")
def test_a_peak_is_that_of_the_call_alone_and_the_process_keeps_its_own() -> None:
    count, large = with_peak(lambda: len(bytearray(SIZE)))
    assert count == SIZE
    small = with_peak(lambda: None)[1]
    again = with_peak(lambda: len(bytearray(SIZE // 2)))[1]
    assert 0.9 * SIZE / 1e6 < large - small < 1.5 * SIZE / 1e6
    assert 0.8 * SIZE / 2e6 < again - small < large - small
    assert peak_rss_mb() >= large
