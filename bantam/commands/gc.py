"""``bantam gc``."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from bantam.commands.app import command
from bantam.run.request import BUILD, Build


@command(examples="Examples:  bantam gc --dry-run   |   rm -r build/old-run && bantam gc")
def gc(
    build: Build = BUILD,
    dry_run: Annotated[bool, Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
) -> None:
    """Remove from build/store what no run's folder shows any longer: remove a run's folder first."""
    from bantam.run.store import Store

    removed = Store(build).collect(dry_run=dry_run)
    for each in removed:
        print(f"{each.size_bytes / 1e6:10.1f} MB  {each.folder}")
    total = sum(each.size_bytes for each in removed) / 1e6
    print(f"{total:10.1f} MB {'would be' if dry_run else 'were'} freed, {len(removed)} artifacts")
