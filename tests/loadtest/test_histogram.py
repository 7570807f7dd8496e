"""Percentiles, their intervals and the correction for coordinated omission, against what they must be."""

from __future__ import annotations

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from bantam.loadtest.histogram import PERCENTS, cells, histogram, omitted, percentiles
from bantam.loadtest.result import LoadResult, merged


def test_percentiles_are_exact_to_three_digits_over_six_orders_of_magnitude() -> None:
    latencies = np.exp(np.random.default_rng(0).uniform(np.log(0.1), np.log(1e5), size=50_000))
    exact = np.percentile(latencies, PERCENTS, method="inverted_cdf")
    assert [found.ms for found in percentiles(latencies)] == pytest.approx(exact, rel=2e-3, abs=1e-3)
    assert histogram(latencies).get_total_count() == 50_000


def test_an_interval_covers_the_true_percentile_as_often_as_it_says() -> None:
    truth, covered = -10 * np.log(0.05), 0  # p95 of an exponential of mean 10
    for seed in range(100):
        (p95,) = percentiles(np.random.default_rng(seed).exponential(10, size=2000), None, [95.0])
        assert p95.low_ms is not None
        assert p95.high_ms is not None
        assert p95.low_ms <= p95.ms <= p95.high_ms
        covered += p95.low_ms <= truth <= p95.high_ms
    assert 85 <= covered <= 100


def test_blocks_see_that_a_disturbance_is_one_event_and_not_many() -> None:
    calm = np.random.default_rng(1).uniform(1, 2, size=2000)
    at_once, scattered = calm.copy(), calm.copy()
    at_once[1000:1040] = 500
    scattered[::50] = 500
    (one,) = percentiles(at_once, None, [99.0])
    (many,) = percentiles(scattered, None, [99.0])
    assert one.ms == many.ms == pytest.approx(500, rel=1e-3)
    assert one.low_ms is not None
    assert one.low_ms < 2, "another test of this length may well have had no such event"
    assert many.low_ms == pytest.approx(500, rel=1e-3)


def test_too_few_requests_give_no_interval_and_none_gives_nothing() -> None:
    found = percentiles(np.arange(1.0, 100.0))
    assert all(each.low_ms is None for each in found)
    assert found[0].ms == pytest.approx(50, rel=1e-3)
    assert found[0].beyond == 49
    assert percentiles(np.empty(0)) == []


def reference_correction(values_ms: list[float], interval_ms: float) -> list[float]:
    """HdrHistogram's recordSingleValueWithExpectedInterval, as in its Java and C versions."""
    found = []
    for value in values_ms:
        missing = value - interval_ms
        while missing >= interval_ms - 1e-9:
            found.append(missing)
            missing -= interval_ms
    return found


def test_the_correction_is_that_of_hdrhistogram() -> None:
    latencies = np.array([1.0, 1.9, 2.0, 2.5, 7.3, 1.0, 4.0])
    missing, causes = omitted(latencies, 1.0)
    assert missing.tolist() == pytest.approx(reference_correction(latencies.tolist(), 1.0))
    assert causes.tolist() == [2, 3, *[4] * 6, *[6] * 3]
    assert len(omitted(latencies, 10.0)[0]) == 0


def result(due: list[float], took: list[float], failed: dict[int, str] | None = None, **options: float) -> LoadResult:
    start = np.array(due)
    return LoadResult(start, start, start + np.array(took), failed or {}, **options)  # type: ignore[arg-type]


def test_the_parts_of_a_test_make_one_result_in_the_order_of_sending() -> None:
    one = result([0.0, 0.2, 0.4], [0.01, 0.02, 0.03], {1: "TimeoutExceeded"}, rate=5.0, cpu_s=0.1)
    other = result([0.1, 0.3], [0.11, 0.12], {0: "ClientError"}, rate=5.0, cpu_s=0.2)
    both = merged([one, other])
    assert both.due.tolist() == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert both.failed == {1: "ClientError", 2: "TimeoutExceeded"}
    assert both.latencies_ms.tolist() == pytest.approx([10, 120, 30])
    assert (both.rate, both.processes) == (10.0, 2)
    assert both.cpu_s == pytest.approx(0.3)
    assert both.errors == {"ClientError": 1, "TimeoutExceeded": 1}


@pytest.mark.parametrize(
    ("cpu_s", "lag", "bound"), [(0.1, 0.0, False), (0.95, 0.0, True), (0.1, 0.004, True), (0.1, 0.0005, False)]
)
def test_the_client_is_the_bottleneck_without_cpu_to_spare_or_when_it_sends_late(
    cpu_s: float, lag: float, bound: bool
) -> None:
    due = np.arange(0, 1, 0.01)
    found = LoadResult(due, due + lag, due + lag + 0.010, rate=100.0, cpu_s=cpu_s)
    assert found.client_bound == bound


def test_the_encoded_histogram_can_be_read_again() -> None:
    latencies = np.random.default_rng(0).exponential(5, size=1000)
    read = HdrHistogram.decode(histogram(latencies).encode())
    assert read.get_total_count() == 1000
    assert read.get_value_at_percentile(99) == histogram(latencies).get_value_at_percentile(99)


def test_the_intervals_count_in_the_same_cells_as_the_histogram() -> None:
    values = np.unique(np.exp(np.random.default_rng(0).uniform(0, np.log(3.6e9), size=500)).astype(np.int64))
    values = np.concatenate((values, 2 ** np.arange(32), 2 ** np.arange(1, 32) - 1))
    empty = histogram(np.empty(0))
    assert cells(values).tolist() == [empty.get_highest_equivalent_value(value) for value in values.tolist()]
