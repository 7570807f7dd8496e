"""Two runs side by side in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bantam.report.compare import Line, RunComparison
from bantam.report.schema import Report
from bantam.report.text import DASH, QUALITY, kind, points, times

NOT_COMPARABLE = "not comparable"
SHORT_DIGEST = 12
"""Characters of a digest that tell two of them apart."""
MOST_NAMES = 8
"""Of a list in a cell; --json has all of it."""


def show(found: RunComparison, console: Console, names: tuple[str, str]) -> None:
    """Print a comparison; ``names`` are what the user called the two runs."""
    for letter, name, report in (("A", names[0], found.a), ("B", names[1], found.b)):
        console.print(Text(f"{letter}  {name}: {_in_words(report)}", style="bold"))
    if found.doubts:
        console.print()
    for doubt in found.doubts:
        console.print(Text(f"The {doubt.figures} of A and B cannot be compared: {doubt.reason}.", style="yellow"))
    console.print(_chosen(found))
    shared = [name for name in found.variants if len(found.variants) > 1]
    if shared:
        console.print(_variants(found, shared))
    console.print(Text(f"{times(1)[-1]} is B divided by A: below 1 is less.", style="dim"))
    for note in found.notes:
        console.print(Text(note, style="dim"))
    console.print(_differences(found) if found.differences else Text("\nNothing else differs."))


def _in_words(report: Report) -> str:
    return ", ".join(filter(None, (f"{report.model} on {report.data}", report.recipe, report.profile, report.created)))


def _table(*heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for n, head in enumerate(heads):
        table.add_column(head, justify="right" if n else "left", overflow="fold")
    return table


def _chosen(found: RunComparison) -> Table:
    a, b = (report.variant(report.chosen) for report in (found.a, found.b))
    table = _table("\nChosen", f"A: {a.name}\n{kind(a)}", f"B: {b.name}\n{kind(b)}", "\nB against A")
    for line in found.chosen:
        table.add_row(f"{line.column.group.partition(',')[0]}: {line.column.title}", *_cells(line))
    return table


def _variants(found: RunComparison, names: Sequence[str]) -> Table:
    """The variants that both have: the figures that a choice is made by."""
    wanted = [n for n, line in enumerate(found.chosen) if _is_key(line)]
    heads = [f"{found.chosen[n].column.head.strip()}\n{side}" for n in wanted for side in ("A", "B", "B to A")]
    table = _table("In both", *(head.replace("\n", " ", head.count("\n") - 1) for head in heads))
    for name in names:
        lines = found.variants[name]
        table.add_row(name, *(cell for n in wanted for cell in _cells(lines[n], short=True)))
    return table


def _is_key(line: Line) -> bool:
    keys = {("Quality", found[0].title) for found in QUALITY.values()} | {("In process, ms", "p50")}
    return (line.column.group, line.column.title) in keys


def _cells(line: Line, *, short: bool = False) -> tuple[str, str, str]:
    """A, B and the change as a reader sees them."""
    a, b = (DASH if values is None else line.column.show(values) for values in (line.a, line.b))
    if line.change is None:
        missing = line.comparable or line.a is None or line.b is None
        return a, b, DASH if missing or short else NOT_COMPARABLE
    if line.column.points is not None:
        change = points(line.change)
        return a, b, f"{'' if change.startswith('-') else '+'}{change}{'' if short else ' points'}"
    return a, b, times(line.change)


def _differences(found: RunComparison) -> Table:
    table = _table("What differs", "", "A", "B")
    for column in table.columns:
        column.justify = "left"
    previous = None
    for difference in found.differences:
        group = difference.group if difference.group != previous else ""
        previous = difference.group
        table.add_row(
            group, difference.what, _value(difference.what, difference.a), _value(difference.what, difference.b)
        )
    return table


def _value(what: str, value: Any) -> Text:
    if value is None:
        return Text(DASH)
    if isinstance(value, list):
        rest = f" and {len(value) - MOST_NAMES} more" if len(value) > MOST_NAMES else ""
        return Text(", ".join(map(str, value[:MOST_NAMES])) + rest)
    return Text(str(value)[:SHORT_DIGEST] if what == "digest" else str(value))
