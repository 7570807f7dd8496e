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

ServedModel = Annotated[str, Argument(help="Name of the served model.")]
Address = Annotated[str, Option(help="host:port of the server: its gRPC port, or with --protocol http its HTTP port.")]
Seconds = Annotated[float, Option(help="Length of each of the two tests.", min=1)]
Rate = Annotated[
    float | None,
    Option(help="Requests per second of the fixed-rate test; half of what one client gets if left out.", min=0.1),
]
AllVariants = Annotated[bool, Option("--all", help="All variants in the table, not only the fastest.")]
RunFolder = Annotated[Path | None, Argument(help="A run's folder; the newest if left out.")]
RunA = Annotated[Path, Argument(help="A run's folder or its report.json.", show_default=False)]
RunB = Annotated[Path, Argument(help="The one to set beside it.", show_default=False)]
Debug = Annotated[bool, Option("--debug", help="Show the traceback of an error.")]
Version = Annotated[bool, Option("--version", help="Print the version.")]
