"""What a load test is asked for. Each field is an option of ``bantam load-test``, as in :mod:`bantam.run.request`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from typer import Argument, Option


@dataclass(frozen=True)
class LoadTestRequest:
    """What the user asked for."""

    model: Annotated[str, Argument(help="Name of the served model.")] = "minilm"
    address: Annotated[
        str, Option(help="host:port of the server: its gRPC port, or with --protocol http its HTTP port.")
    ] = "localhost:8001"
    protocol: Annotated[Literal["grpc", "http"], Option()] = "grpc"
    data: Annotated[
        str,
        Option(
            help="Texts or pairs to send: a data set (its test split), a .txt with one a line, a CSV, TSV or JSONL."
        ),
    ] = "goemotions-ekman"
    words: Annotated[
        int | None,
        Option(help="Make all texts so many words long, of a pair each; their own length if left out.", min=1),
    ] = None
    seconds: Annotated[float, Option(help="Length of each test, and of each step of the search.", min=1)] = 10.0
    clients: Annotated[int, Option(help="Closed loop: clients that each wait for an answer.", min=1)] = 1
    rate: Annotated[
        float | None,
        Option(help="Open loop: requests per second; half of what the closed loop gets if left out.", min=0.1),
    ] = None
    arrivals: Annotated[Literal["poisson", "constant"], Option()] = "poisson"
    slo: Annotated[
        str | None, Option(help="Search for the highest rate that keeps this objective, such as p99=50ms.")
    ] = None
    processes: Annotated[
        str, Option(help="Processes that send: a number, or auto: more when one is the bottleneck.")
    ] = "auto"
    timeout: Annotated[float, Option(help="Seconds after which a request has failed.", min=0.001)] = 10.0
    warmup: Annotated[int, Option(help="Requests of each process before the clock starts.", min=0)] = 20
    input: Annotated[str | None, Option(help="Name of the model's text input, if its server does not describe it.")] = (
        None
    )
    seed: Annotated[int, Option(help="Seed of the random gaps between requests.", min=0)] = 0
    command: str = ""
    """What the user typed, for the report."""
