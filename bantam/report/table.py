"""A report in the terminal: headline, table of variants, what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from bantam.report.cost import against, places
from bantam.report.origin import licences, quantized_once
from bantam.report.outcome import dropped, searched
from bantam.report.ranking import front, leading
from bantam.report.schema import Report, Variant
from bantam.report.text import (
    LATENCY_GROUPS,
    RANDOM_WEIGHTS,
    Column,
    client_code,
    columns,
    headline,
    kind,
    lost,
    serve_command,
    worst_group,
)

MARK = "»"
"""In front of the chosen variant."""
MOST_ROWS = 12
"""Variants in the table, unless all are asked for: a study has some two dozen, and a screen has as many lines."""


FRONT = ("Quality", "In process, ms", "Gain and cost")
"""Groups of the columns in the table of the front."""


def show(report: Report, console: Console, *, html: Path | None = None, whole: bool = False) -> None:
    """Print the report; ``html`` is the page to point at. On a narrow console the table comes in two parts.

    The table has at most :data:`MOST_ROWS` variants, the fastest, unless the ``whole`` one is asked for.
    """
    if report.random_weights:
        console.print(Text(RANDOM_WEIGHTS, style="bold yellow"))
    first, *others = headline(report)
    console.print(Text(first, style="bold green" if report.budget.met else "bold"))
    for line in others:
        console.print(Text(line, style="red" if report.budget.met is False and line is others[-1] else ""))
    console.print()
    shown = report.ordered if whole else leading(report, MOST_ROWS)
    for part in _tables(report, shown, console):
        console.print(part)
    if len(shown) < len(report.variants):
        console.print(Text(_rest(report, len(shown), html)))
    if report.search is not None:
        console.print(Text("Front: no other variant is both better and smaller, or better and faster in process"))
        console.print(table(report, front(report), [c for c in columns(report) if c.group in FRONT]))
    for line in _explanation(report, shown):
        console.print(Text(line, style="dim"))
    console.print()
    console.print(Text("Next", style="bold"))
    if html is not None:
        console.print(Text(f"  open {html}", no_wrap=True, overflow="ignore"))
    console.print(Text(f"  {serve_command(report)}"))
    console.print("  ask it from Python:")
    for line in client_code(report).splitlines():
        console.print(Text(f"    {line}"))


def _tables(report: Report, shown: Sequence[Variant], console: Console) -> list[Table]:
    """One table if the console is wide enough, else one of quality and cost and one of latency, else three."""
    every = columns(report)
    latency = [column for column in every if column.group in LATENCY_GROUPS]
    quality = [column for column in every if column.group == "Quality"]
    cost = [column for column in every if column not in latency and column not in quality]
    unbounded = console.options.update(width=10_000)
    for parts in ([every], [[*quality, *cost], latency], [quality, [*cost, *latency]]):
        tables = [table(report, shown, part) for part in parts]
        if all(Measurement.get(console, unbounded, each).maximum <= console.width for each in tables):
            return tables
    return [table(report, shown, part) for part in (quality, cost, latency)]


def _rest(report: Report, shown: int, html: Path | None) -> str:
    """What the table leaves out, and where it is."""
    folder = f" {shlex.quote(str(html.parent))}" if html else ""
    return (
        f"{shown} of {len(report.variants)} variants: the baseline and the fastest. "
        f"All of them: bantam report{folder} --all, or report.html."
    )


def table(report: Report, shown: Sequence[Variant], columns: Sequence[Column]) -> Table:
    """One row for each variant that is ``shown``, the chosen one marked; a dash where nothing was measured."""
    result = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    result.add_column("\n  Variant", overflow="fold")
    for column in columns:
        result.add_column(column.head, justify="right", overflow="fold")
    leavers = dropped(report)
    for variant in shown:
        is_chosen = variant.name == report.chosen
        style = "bold green" if is_chosen else "dim" if variant.name in leavers else ""
        cells = [Text(column.text(report, variant)) for column in columns]
        result.add_row(Text(f"{MARK if is_chosen else ' '} {variant.name}"), *cells, style=style)
    for failed in report.failed:
        result.add_row(Text(f"  {failed.name}"), Text("failed"), style="dim")
    return result


def _explanation(report: Report, shown: Sequence[Variant]) -> list[str]:
    """What the reader of the table has to know, one line each."""
    machine = report.machine
    where = [machine.cpu, f"{machine.cores} cores" if machine.cores else None, machine.gpu, report.created]
    chosen = report.variant(report.chosen)
    rows = f"on {chosen.on_dev.split}, " if chosen.on_dev and chosen.quality_dev else ""
    lines = [f"{MARK} chosen ({kind(chosen)}). Drop: {lost(report)} {rows}same rows as the baseline."]
    lines += [line for line in (worst_group(chosen), places(report), against(report)) if line]
    lines += [f"Failed {failed.name}: {failed.reason}" for failed in report.failed]
    # What a search never measured in full has no row to be looked for.
    names = {variant.name for variant in shown} | ({*dropped(report)} if report.search else set())
    lines += [f"Dropped {name}: {reason}" for name, reason in dropped(report).items() if name in names]
    lines += searched(report)
    lines += [f"Note: {note}" for note in report.notes]
    lines += [once] if (once := quantized_once(report)) else []
    lines += [f"Licence of {line}" for line in licences(report)]
    return [*lines, "Measured with batch 1 on " + ", ".join(part for part in where if part)]
