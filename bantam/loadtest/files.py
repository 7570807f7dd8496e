"""Writes a load test as JSON, CSV and HTML."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from bantam import spreadsheet
from bantam.loadtest.histogram import PERCENTS
from bantam.loadtest.schema import LoadTestReport, Measurement
from bantam.report.file import write_files


class Written(NamedTuple):
    """Paths of what was written."""

    json: Path
    csv: Path
    html: Path


def to_json(report: LoadTestReport) -> str:
    """The report as indented JSON; what was not measured is absent."""
    return report.model_dump_json(indent=1, exclude_none=True) + "\n"


def to_csv(report: LoadTestReport) -> str:
    """A row for each test and each step of the search, for spreadsheets; what was not measured is empty."""
    columns = ["test", "rate", "clients", "requests", "answered_per_s", "errors", "met"]
    columns += [f"p{percent:g}{end}_ms" for percent in PERCENTS for end in ("", "_low", "_high")]
    columns += ["lag_p99_ms", "client_cores", "processes", "queue_ms", "compute_input_ms", "compute_infer_ms"]
    columns += ["compute_output_ms", "server_cores", "server_peak_rss_mb"]
    rows = [_row(test) for test in report.tests]
    for step in report.limit.steps if report.limit else ():
        slo = report.limit.slo if report.limit else ""
        row = {"test": f"search {slo}", "rate": step.rate, "requests": step.requests, "met": int(step.met)}
        rows.append({**row, "p50_ms": step.p50_ms, f"{slo.partition('=')[0]}_ms": step.percentile_ms})
    return spreadsheet.to_csv([columns, *([row.get(name) for name in columns] for row in rows)])


def write(report: LoadTestReport, folder: Path) -> Written:
    """Write ``load-test.json``, ``.csv`` and ``.html`` into ``folder``.

    Raises :class:`DiskFullError` if there is no space left, :class:`UserError` if the folder cannot be written.
    """
    from bantam.loadtest.page import render

    paths = Written(*(folder / f"load-test.{kind}" for kind in Written._fields))
    write_files(dict(zip(paths, (to_json(report), to_csv(report), render(report)), strict=True)))
    return paths


def _row(test: Measurement) -> dict[str, object]:
    row: dict[str, object] = {
        "test": test.name,
        "rate": test.rate,
        "clients": test.clients,
        "requests": test.requests,
        "answered_per_s": test.answered_per_s,
        "errors": sum(test.errors.values()),
        "lag_p99_ms": test.lag_p99_ms,
        "client_cores": test.client_cores,
        "processes": test.processes,
        "server_cores": test.server.cores,
        "server_peak_rss_mb": test.server.peak_rss_mb,
    }
    for part in ("queue_ms", "compute_input_ms", "compute_infer_ms", "compute_output_ms"):
        row[part] = getattr(test.server, part)
    for found in test.latency:
        name = f"p{found.percent:g}"
        row |= {f"{name}_ms": found.ms, f"{name}_low_ms": found.low_ms, f"{name}_high_ms": found.high_ms}
    return row
