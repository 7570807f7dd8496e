"""What the demo is asked for. Each field is an option of ``bantam demo``, as in :mod:`bantam.run.request`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typer import Argument, Option

from bantam.run.request import BUILD, Build


@dataclass(frozen=True)
class DemoRequest:
    """What the user asked for."""

    model: Annotated[str, Argument(help="Name of the served model.")] = "minilm"
    address: Annotated[str, Option(help="host:port of the server's gRPC port.")] = "localhost:8001"
    data: Annotated[
        str | None,
        Option(help="Data set whose test split gives examples and texts for the load test; that of the newest run."),
    ] = None
    build: Build = BUILD
    host: Annotated[str, Option(help="Address to listen on. The default can be reached from this machine only.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Option(help="Port of the page; 0 takes a free one.", min=0, max=65535)] = 7860
