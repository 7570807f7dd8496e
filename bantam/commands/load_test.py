"""``bantam load-test``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from typer import Option

from bantam.commands.app import Json, command
from bantam.commands.terminal import log, progress, typed
from bantam.loadtest.request import LoadTestRequest
from bantam.run.request import BUILD


@command(
    examples="Examples:  bantam load-test minilm   |   bantam load-test minilm --slo p99=50ms   |   "
    "bantam load-test minilm --rate 200 --seconds 60 --data reviews.csv   |   "
    "bantam load-test sst2 --address models:8080 --protocol http --clients 8 --data texts.txt --words 64"
)
def load_test(
    request: LoadTestRequest,
    output: Annotated[Path, Option(help="Folder for load-test.json, .csv and .html.")] = BUILD / "load-test",
    as_json: Json = False,
) -> None:
    """Measure any served KServe v2 model that takes text: a closed loop, a fixed rate, and with --slo its limit.

    Latency counts from the intended sending. The results are shown, and written as JSON, CSV and a page.
    """
    from rich.console import Console

    from bantam.loadtest.files import to_json, write
    from bantam.loadtest.run import run
    from bantam.loadtest.table import show

    found = run(replace(request, command=typed()), log, progress)
    written = write(found, output)
    print(to_json(found), end="") if as_json else show(found, Console(), written)
