"""Arguments and options of the command line: what each one means, and what it may be."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option


class Target(StrEnum):
    """What a model is trained and served on."""

    cpu = "cpu"
    gpu = "gpu"


class Protocol(StrEnum):
    """How the server is asked."""

    grpc = "grpc"
    http = "http"


class Arrivals(StrEnum):
    """The gaps between requests of an open loop."""

    poisson = "poisson"
    constant = "constant"


Model = Annotated[str, Argument(help="A short name (minilm, bert, distilbert, ...), a hub id or a folder.")]
Data = Annotated[
    str,
    Option(help="A bundled data set, a CSV, TSV, JSONL or Parquet file, a folder of them, or a hub data set id."),
]
RecipeName = Annotated[str, Option("--recipe", help="Which variants to make: a recipe's name, or a .toml file.")]
Profile = Annotated[str, Option(help="quick: minutes, on a part of the data; full: all of it.")]
MaxDrop = Annotated[
    float | None, Option(help="Budget: macro-F1 points that may be lost. The recipe's own if left out.", min=0.01)
]
Name = Annotated[str | None, Option(help="Name to publish under; the model's own if left out.")]
RandomInit = Annotated[
    bool, Option("--random-init", help="Random weights: plan size, latency and memory before a download.")
]
TextColumn = Annotated[str | None, Option(help="Column of the texts, if it is not found.")]
LabelColumn = Annotated[str | None, Option(help="Column of the labels, if it is not found.")]
Separator = Annotated[str | None, Option(help="Separates several labels in one cell.")]
Build = Annotated[Path, Option(help="Where the folders of the runs are.")]
Repository = Annotated[Path, Option(help="The model repository.")]
Json = Annotated[bool, Option("--json", help="Print one JSON document to standard output, for scripts.")]

Published = Annotated[list[str] | None, Argument(help="Published names; all if left out.")]
Host = Annotated[str, Option(help="Address to listen on. The default can be reached from this machine only.")]
GrpcPort = Annotated[int, Option(help="Port for gRPC.", min=0, max=65535)]
HttpPort = Annotated[int, Option(help="Port for HTTP.", min=0, max=65535)]
Isolated = Annotated[
    bool,
    Option(
        "--isolated",
        help="Run each model in a process of its own: one that crashes leaves the others alone, but each request takes "
        "some tenths of a millisecond more.",
    ),
]

ServedModel = Annotated[str, Argument(help="Name of the served model.")]
Address = Annotated[str, Option(help="host:port of the server: its gRPC port, or with --protocol http its HTTP port.")]
TestTexts = Annotated[
    str,
    Option(
        "--data",
        help="Texts to send: a data set (its test split), a .txt file with one a line, or a CSV, TSV or JSONL.",
    ),
]
Words = Annotated[int | None, Option(help="Make all texts so many words long; their own length if left out.", min=1)]
Seconds = Annotated[float, Option(help="Length of each test, and of each step of the search.", min=1)]
ClosedClients = Annotated[int, Option("--clients", help="Closed loop: clients that each wait for an answer.", min=1)]
Rate = Annotated[
    float | None,
    Option(help="Open loop: requests per second; half of what the closed loop gets if left out.", min=0.1),
]
SloText = Annotated[
    str | None, Option("--slo", help="Search for the highest rate that keeps this objective, such as p99=50ms.")
]
Processes = Annotated[str, Option(help="Processes that send: a number, or auto: more when one is the bottleneck.")]
Timeout = Annotated[float, Option(help="Seconds after which a request has failed.", min=0.001)]
Warmup = Annotated[int, Option(help="Requests of each process before the clock starts.", min=0)]
InputName = Annotated[
    str | None, Option("--input", help="Name of the model's text input, if its server does not describe it.")
]
Seed = Annotated[int, Option(help="Seed of the random gaps between requests.", min=0)]
LoadTestFolder = Annotated[Path, Option("--output", help="Folder for load-test.json, .csv and .html.")]
GrpcAddress = Annotated[str, Option("--address", help="host:port of the server's gRPC port.")]
Examples = Annotated[
    str | None,
    Option(
        "--data", help="Data set whose test split gives examples and texts for the load test; that of the newest run."
    ),
]
PagePort = Annotated[int, Option("--port", help="Port of the page; 0 takes a free one.", min=0, max=65535)]
AllVariants = Annotated[bool, Option("--all", help="All variants in the table, not only the fastest.")]
RunFolder = Annotated[Path | None, Argument(help="A run's folder; the newest if left out.")]
RunA = Annotated[Path, Argument(help="A run's folder or its report.json.", show_default=False)]
RunB = Annotated[Path, Argument(help="The one to set beside it.", show_default=False)]
Debug = Annotated[bool, Option("--debug", help="Show the traceback of an error.")]
Version = Annotated[bool, Option("--version", help="Print the version.")]
