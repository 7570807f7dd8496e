"""A load test in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bantam.loadtest.files import Written
from bantam.loadtest.histogram import PERCENTS
from bantam.loadtest.page import interval, or_dash, rows
from bantam.loadtest.schema import LoadTestReport, Measurement


def show(report: LoadTestReport, console: Console, written: Written | None) -> None:
    """Print the tables, what to know about them, and where the files are."""
    console.print(latency(report))
    console.print(server(report))
    if report.limit:
        limit = report.limit
        held = f"{limit.rate:.4g} requests/s" if limit.rate else "no rate that was tried"
        missed = f", missed at {limit.failed_rate:.4g}" if limit.failed_rate else ""
        console.print(Text(f"{limit.slo} is kept at {held}{missed} ({len(limit.steps)} steps).", style="bold green"))
    for note in report.notes:
        console.print(Text(note, style="yellow"))
    if written:
        console.print(Text(f"open {written.html}   (also .json and .csv)", no_wrap=True, overflow="ignore"))


def latency(report: LoadTestReport) -> Table:
    """Percentiles of each test, each with its interval below; both ways to count where they differ."""
    shown = Table(title="Latency in ms (95% interval)")
    shown.add_column("", min_width=22)
    for percent in PERCENTS:
        shown.add_column(f"p{percent:g}")
    for name, way, found in rows(report):
        label = Text(name).append(f"\n{way}", style="dim")
        cells = [Text(or_dash(each.ms)).append(f"\n{interval(each)}", style="dim") for each in found]
        shown.add_row(label, *cells)
    return shown


def server(report: LoadTestReport) -> Table:
    """What server and client did meanwhile."""
    shown = Table(
        "",
        "answers/s",
        "errors",
        "queue, input, infer, output ms",
        "server cores, MB",
        "client cores, lag p99 ms",
        title="Meanwhile",
    )
    for test in report.tests:
        errors = ", ".join(f"{kind} {count}" for kind, count in test.errors.items()) or "0"
        shown.add_row(test.name, f"{test.answered_per_s:.4g}", errors, _split(test), _usage(test), _client(test))
    return shown


def _split(test: Measurement) -> str:
    parts = (test.server.queue_ms, test.server.compute_input_ms, test.server.compute_infer_ms)
    return " ".join(or_dash(part) for part in (*parts, test.server.compute_output_ms))


def _usage(test: Measurement) -> str:
    if test.server.cores is None:
        return or_dash(None)
    return f"{test.server.cores:.2f}, {test.server.peak_rss_mb or 0:,.0f}"


def _client(test: Measurement) -> str:
    several = f" x {test.processes}" if test.processes > 1 else ""
    return f"{test.client_cores:.2f}{several}, {or_dash(test.lag_p99_ms)}"
