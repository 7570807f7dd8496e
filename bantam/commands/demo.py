"""``bantam demo``."""

from __future__ import annotations

import json

from bantam.commands.app import Json, command
from bantam.commands.terminal import log, stop_on_sigterm
from bantam.demo.request import DemoRequest


@command(examples="Examples:  bantam demo   |   bantam demo minilm --address models:8001 --data reviews.csv")
def demo(request: DemoRequest, as_json: Json = False) -> None:
    """Show a served model beside its baseline on a page in the browser, until Ctrl-C or SIGTERM."""
    from bantam.demo.run import run

    stop_on_sigterm()
    for url in run(request, log):
        print(json.dumps({"url": url}), flush=True) if as_json else log(f"The demo is at {url}. Ctrl-C stops it.")
