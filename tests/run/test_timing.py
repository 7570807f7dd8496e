"""Intervals of times and their ratios: what they hold, and what they cannot tell apart."""

from __future__ import annotations

import numpy as np
import pytest

from bantam.run.timing import Compared, Timing, equal


def synthetic(ratio: float, seed: int, *, group: int = 0, slower: float = 1.0, rounds: int = 5) -> Compared:
    """Texts of very different lengths, rounds of different speed, and some noise; the true ratio is ``ratio``."""
    lengths = np.random.default_rng(0).lognormal(1.0, 0.8, size=40)
    rng = np.random.default_rng(seed)
    speed = slower * rng.lognormal(0.0, 0.2, size=(rounds, 1))
    own, anchor = (speed * lengths * rng.lognormal(0.0, 0.05, size=(rounds, 40)) for _ in range(2))
    return Compared(ratio * own, anchor, group, float(np.median(anchor)))


def test_the_interval_of_a_ratio_holds_the_true_one() -> None:
    found = [synthetic(0.7, seed).ratio for seed in range(1, 21)]
    assert sum(each.low <= 0.7 <= each.high for each in found) >= 18
    assert all(each.low < each.value < each.high for each in found)


def test_pairing_cancels_what_rounds_and_texts_have_in_common() -> None:
    compared = synthetic(0.7, 1)
    ratio, p50 = compared.ratio, compared.p50_ms
    assert (ratio.high - ratio.low) / ratio.value < 0.5 * (p50.high - p50.low) / p50.value


def test_figures_are_the_same_each_time() -> None:
    assert synthetic(0.7, 1).ratio == synthetic(0.7, 1).ratio


def as_timing(compared: Compared) -> Timing:
    return Timing(compared, None)


def test_equal_is_what_no_interval_tells_apart() -> None:
    same, other, faster = synthetic(0.7, 1), synthetic(0.7, 2, group=1, slower=2.0), synthetic(0.5, 3, group=2)
    assert equal(as_timing(same), as_timing(other))
    assert not equal(as_timing(same), as_timing(faster))
    assert not equal(as_timing(other), as_timing(faster))
    assert other.versus(faster).value == pytest.approx(1.4, abs=0.1)
    assert not equal(as_timing(same), Timing(None, None))


def test_a_few_failed_requests_leave_the_others_to_be_compared() -> None:
    whole = synthetic(0.7, 1)
    own = whole.own_ms.copy()
    own[2, 3:9] = np.nan
    found = Compared(own, whole.anchor_ms, 0, whole.anchor_p50_ms)
    assert found.ratio.low < 0.7 < found.ratio.high
    assert len(found.latencies_ms) == own.size - 6


def test_an_anchor_that_failed_for_whole_rounds_leaves_intervals() -> None:
    """Some resamples are of these rounds alone: they say nothing, and the others do."""
    whole = synthetic(0.7, 1)
    anchor = whole.anchor_ms.copy()
    anchor[:2] = np.nan
    found = Compared(whole.own_ms, anchor, 0, float(np.nanmedian(anchor)))
    for estimate in (found.ratio, found.p50_ms, found.versus(synthetic(0.5, 2))):
        assert estimate.low < estimate.value < estimate.high
