"""Times of a search that goes on: kept whole, read again as they were, and not if a request failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from bantam.run.kept_times import KeptTimes, Times
from bantam.run.noise import Noise, Sample
from bantam.run.timing import Compared, Timing


def test_times_are_kept_as_they_were(tmp_path: Path) -> None:
    timed = Compared(np.array([[1.0, np.nan], [2.0, 3.0]]), np.ones((2, 2)), 3, 1.25)
    noise = Noise(((Sample(5.0, 0.1), Sample(6.0, 0.2)),))
    whole = Timing(timed, None, {}, 40.0, None, 7.0, 8.0, noise)
    answers = np.array([[0.1, 0.9]], dtype=np.float32)
    kept, asked = KeptTimes(tmp_path / "times"), list[str]()

    def measured() -> Times:
        asked.append("measured")
        return Times({"a": whole}, {"a": answers}, "it must be")

    kept.get_or_measure("other", lambda: Times({}))
    first, _ = kept.get_or_measure("key", measured)
    again, age = KeptTimes(tmp_path / "times").get_or_measure("key", measured)
    assert age is not None
    assert 0 <= age < 60
    assert asked == ["measured"]
    found = again.timings["a"]
    assert found.in_process is not None
    np.testing.assert_array_equal(found.in_process.own_ms, timed.own_ms)
    assert found.in_process.p50_ms == timed.p50_ms
    assert replace(found, in_process=None).__dict__ == replace(whole, in_process=None).__dict__
    np.testing.assert_array_equal(again.answers["a"], answers)
    assert again.isolated_because == first.isolated_because == "it must be"
    for damaged in ("{", "[]", '{"timings": []}'):
        (tmp_path / "times-key.json").write_text(damaged)
        assert kept.get_or_measure("key", measured)[1] is None
    (tmp_path / "times-key.npz").write_bytes(b"PK")
    assert kept.get_or_measure("key", measured)[1] is None
    kept.forget()
    assert not list(tmp_path.iterdir())


def test_times_with_a_failed_request_are_not_kept(tmp_path: Path) -> None:
    failed = Times({"a": Timing(None, None, {"rate": {"TimeoutExceeded": 2}})})
    kept = KeptTimes(tmp_path / "times")
    assert [kept.get_or_measure("key", lambda: failed)[1] for _ in range(2)] == [None, None]
