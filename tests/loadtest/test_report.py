"""What a load test writes: all figures once, the same in JSON, CSV and on the page."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bantam.errors import UserError
from bantam.loadtest.describe import describe, warnings
from bantam.loadtest.files import to_csv, to_json, write
from bantam.loadtest.page import render
from bantam.loadtest.result import LoadResult
from bantam.loadtest.schema import LoadTestReport
from bantam.loadtest.search import Slo, find_limit
from bantam.loadtest.table import show
from tests.loadtest import sample as load_test_sample
from tests.loadtest.sample import opened


@pytest.fixture(scope="module")
def report() -> LoadTestReport:
    return load_test_sample.report()


def test_the_limit_is_bracketed_within_the_precision(report: LoadTestReport) -> None:
    assert report.limit is not None
    assert report.limit.rate is not None
    assert report.limit.failed_rate is not None
    # 40 of 1,000 requests are slowed by rate-300 ms, on top of at most 6: p99 passes 50 ms between 344 and 346/s.
    assert report.limit.rate <= 346
    assert report.limit.failed_rate >= 344
    assert report.limit.failed_rate <= 1.05 * report.limit.rate
    assert [step.met for step in report.limit.steps[:3]] == [True, True, False]


def test_a_search_ends_when_no_rate_will_do() -> None:
    search = find_limit(
        lambda rate: opened(rate, slow=1.0), Slo.parse("p99=50ms"), guess=64, more=lambda steps: len(steps) < 5
    )
    assert [step.rate for step in search.steps] == [64, 32, 16, 8, 4]
    assert search.rate is None
    assert search.failed_rate == 4


@pytest.mark.parametrize(
    ("text", "percent", "limit_ms"), [("p99=50ms", 99, 50), ("P99.9=0.2s", 99.9, 200), (" p50=1.5ms ", 50, 1.5)]
)
def test_objectives(text: str, percent: float, limit_ms: float) -> None:
    assert Slo.parse(text) == Slo(percent, limit_ms)


@pytest.mark.parametrize("text", ["", "50ms", "p99", "p99=50", "p99=ms", "p100=5ms", "p0=5ms", "p99=0ms", "p99<5ms"])
def test_objectives_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match=r"such as p99=50ms"):
        Slo.parse(text)


def test_both_ways_to_count_are_shown_where_they_differ(report: LoadTestReport) -> None:
    held_up, steady = report.tests
    assert held_up.corrected is not None
    p99, corrected = held_up.quantile(99), next(q for q in held_up.corrected if q.percent == 99)
    assert p99 is not None
    assert corrected.ms > 100 * p99.ms
    assert steady.naive is None, "sent on time: there is nothing to tell apart"
    assert describe(opened(lag=0.02), "constant", None, None).naive is not None


def test_moments_hold_every_request_once_and_show_when_it_was_slow(report: LoadTestReport) -> None:
    test = report.tests[1]
    assert sum(moment.requests for moment in test.moments) == 1000
    assert sum(moment.errors for moment in test.moments) == 2
    slow = [moment.start_s for moment in test.moments if moment.max_ms and moment.max_ms > 100]
    assert min(slow) == pytest.approx(2.5, abs=0.21)
    assert max(slow) == pytest.approx(2.7, abs=0.21)


def test_the_histogram_in_the_file_is_that_of_the_test(report: LoadTestReport) -> None:
    read = LoadTestReport.model_validate_json(to_json(report))
    assert read == report
    for test in read.tests:
        assert test.histogram().get_total_count() == test.requests - sum(test.errors.values())
        p99 = test.quantile(99)
        assert p99 is not None
        assert test.histogram().get_value_at_percentile(99) / 1e3 == p99.ms


def test_csv_has_a_row_for_each_test_and_step(report: LoadTestReport) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert report.limit is not None
    assert len(rows) == 2 + len(report.limit.steps)
    p99 = report.tests[1].quantile(99)
    assert p99 is not None
    assert float(rows[1]["p99_ms"]) == p99.ms
    assert rows[0]["queue_ms"] == "0.1"
    assert rows[1]["errors"] == "2"
    assert {row["met"] for row in rows[2:]} == {"0", "1"}


def test_the_page_shows_every_percentile_and_asks_for_nothing(report: LoadTestReport) -> None:
    page = render(report)
    for test in report.tests:
        for found in (*test.latency, *(test.corrected or ())):
            assert f'data-values="{found.ms}"' in page
    assert page.count("<svg") == 3
    assert not re.search(r"(?:src|href)=[\"'](?!#)|@import|url\((?!#)", page)
    assert "mini&lt;lm&gt;" in page
    assert "mini<lm>" not in page
    assert len(page) < 500_000


def test_a_page_of_a_test_that_got_no_answer(report: LoadTestReport) -> None:
    due = np.arange(3) / 10
    dead = LoadResult(due, due, due + 0.1, dict.fromkeys(range(3), "UnavailableError"), rate=10.0)
    test = describe(dead, "constant", None, None)
    assert test.latency == ()
    bare = LoadTestReport(
        model="m",
        address="a:1",
        protocol="http",
        texts=report.texts,
        tests=(test,),
        notes=tuple(warnings([test], None)),
    )
    assert "no request was answered" in render(bare)
    assert "UnavailableError 3" in render(bare)


def test_files_are_written_and_a_folder_that_cannot_be_is_an_error(report: LoadTestReport, tmp_path: Path) -> None:
    written = write(report, tmp_path / "new")
    assert [path.name for path in written] == ["load-test.json", "load-test.csv", "load-test.html"]
    assert json.loads(written.json.read_text())["schema"] == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write(report, tmp_path / "file")


def test_the_terminal_shows_figures_warnings_and_where_the_page_is(report: LoadTestReport, tmp_path: Path) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    show(report, console, write(report, tmp_path))
    text = console.export_text()
    for part in ("corrected for coordinated omission", "p99.9", "1.25, 166", "is kept at", "TimeoutExceeded 1"):
        assert part in text
    assert str(tmp_path / "load-test.html") in text


def test_what_makes_figures_doubtful_is_said() -> None:
    late = describe(opened(lag=0.02), "poisson", None, None)
    (bound, luck) = warnings([late], None)
    assert "sent 20.0 ms late or more" in bound
    assert "p99.9" in luck
