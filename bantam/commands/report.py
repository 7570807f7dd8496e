"""``bantam report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from bantam.commands.app import Json, command
from bantam.commands.terminal import show_report
from bantam.run.request import BUILD, Build

RunFolder = Annotated[Path | None, Argument(help="A run's folder; the newest if left out.")]


@command(examples="Examples:  bantam report   |   bantam report build/minilm-goemotions-ekman-int8-quick --json")
def report(
    run: RunFolder = None,
    build: Build = BUILD,
    whole: Annotated[bool, Option("--all", help="All variants in the table, not only the fastest.")] = False,
    as_json: Json = False,
) -> None:
    """Print a run's report again, and write its report.html anew."""
    from bantam.report.file import newest, read_report, write_report

    run = run or newest(build)
    folder = run if run.is_dir() else run.parent
    found = read_report(run)
    write_report(found, folder)
    show_report(found, folder, as_json, whole=whole)
