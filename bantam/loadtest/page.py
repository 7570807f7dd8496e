"""A load test as one HTML page, in the style of the report's: no script, no network, light and dark."""

from __future__ import annotations

from bantam.loadtest import plots
from bantam.loadtest.histogram import PERCENTS
from bantam.loadtest.schema import LoadTestReport, Quantile
from bantam.report.page import Card
from bantam.report.templates import html
from bantam.report.text import DASH, milliseconds


def render(report: LoadTestReport) -> str:
    """The page. All texts of the report are escaped; every figure on the page comes from the report."""
    shown = next((test for test in reversed(report.tests) if test.kind == "open"), report.tests[-1])
    return (
        html(ms=or_dash, interval=interval)
        .get_template("load-test.html.j2")
        .render(
            report=report,
            cards=cards(report),
            rows=rows(report),
            percents=[f"p{percent:g}" for percent in PERCENTS],
            shown=shown,
            over_time=plots.over_time(shown),
            distribution=plots.distribution(report.tests),
            against_rate=plots.against_rate(report),
            dash=DASH,
        )
    )


def cards(report: LoadTestReport) -> list[Card]:
    """The figures that matter most."""
    found = []
    if report.limit:
        rate = f"{report.limit.rate:,.4g}/s" if report.limit.rate else DASH
        missed = f"missed at {report.limit.failed_rate:,.4g}/s" if report.limit.failed_rate else "never missed"
        found.append(Card(f"Highest rate with {report.limit.slo}", rate, missed))
    for test in report.tests:
        p50, p99 = test.quantile(50), test.quantile(99)
        if p50 and p99:
            detail = f"median {milliseconds(p50.ms)} ms, {test.answered_per_s:,.4g} answers a second"
            found.append(Card(f"p99, {test.name}", f"{milliseconds(p99.ms)} ms", detail))
    return found


def rows(report: LoadTestReport) -> list[tuple[str, str, tuple[Quantile, ...]]]:
    """Name, way of counting and percentiles of each line of the table."""
    found = []
    for test in report.tests:
        first = "from the intended sending" if test.kind == "open" else "as measured"
        found.append((test.name, first, test.latency))
        if test.naive:
            found.append((test.name, "from the actual sending", test.naive))
        if test.corrected:
            found.append((test.name, "corrected for coordinated omission", test.corrected))
    return found


def or_dash(value: float | None) -> str:
    """Milliseconds, or a dash."""
    return DASH if value is None else milliseconds(value)


def interval(found: Quantile) -> str:
    """Both ends of a percentile's interval; nothing if it has none."""
    if found.low_ms is None or found.high_ms is None:
        return ""
    return f"{milliseconds(found.low_ms)} to {milliseconds(found.high_ms)}"
