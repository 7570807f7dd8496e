"""``bantam compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from typer import Argument

from bantam.commands.app import Json, command


@command(
    examples="Example:  bantam compare build/minilm-goemotions-ekman-int8-quick "
    "build/minilm-goemotions-ekman-small-quick"
)
def compare(
    a: Annotated[Path, Argument(help="A run's folder or its report.json.", show_default=False)],
    b: Annotated[Path, Argument(help="The one to set beside it.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Show two runs side by side: what differs, what can be compared, and by how much it changed."""
    from rich.console import Console

    from bantam.report.compare import compare
    from bantam.report.compare_table import show
    from bantam.report.file import read_report

    found = compare(read_report(a), read_report(b))
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        show(found, Console(), (str(a), str(b)))
