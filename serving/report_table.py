"""A report in the terminal: headline, table of variants, what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from serving.report import Report
from serving.report_text import (
    COLUMNS,
    LATENCY_GROUPS,
    RANDOM_WEIGHTS,
    Column,
    client_code,
    dropped,
    headline,
    kind,
    serve_command,
)

MARK = "»"
"""In front of the chosen variant."""


def show(report: Report, console: Console, *, html: Path | None = None) -> None:
    """Print the report; ``html`` is the page to point at. On a narrow console the table comes in two parts."""
    if report.random_weights:
        console.print(Text(RANDOM_WEIGHTS, style="bold yellow"))
    first, *others = headline(report)
    console.print(Text(first, style="bold green" if report.budget.met else "bold"))
    for line in others:
        console.print(Text(line, style="red" if report.budget.met is False and line is others[-1] else ""))
    console.print()
    for part in _tables(report, console):
        console.print(part)
    for line in _explanation(report):
        console.print(Text(line, style="dim"))
    console.print()
    console.print(Text("Next", style="bold"))
    if html is not None:
        console.print(Text(f"  open {html}", no_wrap=True, overflow="ignore"))
    console.print(Text(f"  {serve_command(report)}"))
    console.print("  ask it from Python:")
    for line in client_code(report).splitlines():
        console.print(Text(f"    {line}"))


def _tables(report: Report, console: Console) -> list[Table]:
    """One table if the console is wide enough, otherwise one of quality and cost and one of latency."""
    whole = table(report, COLUMNS)
    unbounded = console.options.update(width=10_000)
    if Measurement.get(console, unbounded, whole).maximum <= console.width:
        return [whole]
    latency = tuple(column for column in COLUMNS if column.group in LATENCY_GROUPS)
    return [table(report, tuple(column for column in COLUMNS if column not in latency)), table(report, latency)]


def table(report: Report, columns: Sequence[Column]) -> Table:
    """One row a variant, the baseline first, the chosen one marked; a dash where nothing was measured."""
    result = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    result.add_column("\n  Variant", overflow="fold")
    for column in columns:
        result.add_column(column.head, justify="right", overflow="fold")
    leavers = dropped(report)
    for variant in report.ordered:
        is_chosen = variant.name == report.chosen
        style = "bold green" if is_chosen else "dim" if variant.name in leavers else ""
        cells = [Text(column.text(report, variant)) for column in columns]
        result.add_row(Text(f"{MARK if is_chosen else ' '} {variant.name}"), *cells, style=style)
    return result


def _explanation(report: Report) -> list[str]:
    """What the reader of the table has to know, one line each."""
    machine = report.machine
    where = [machine.cpu, f"{machine.cores} cores" if machine.cores else None, machine.gpu, report.created]
    lines = [
        f"{MARK} chosen ({kind(report.variant(report.chosen))}). Drop: macro-F1 points lost, same rows as the baseline."
    ]
    lines += [f"Dropped {name}: {reason}" for name, reason in dropped(report).items()]
    lines += [f"Note: {note}" for note in report.notes]
    return [*lines, "Measured with batch 1 on " + ", ".join(part for part in where if part)]
