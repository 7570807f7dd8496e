"""What a run is asked for. Each field is an option of ``bantam optimize``, with its type, default and help."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option

from bantam.errors import UserError

if TYPE_CHECKING:
    from optimizer.data.dataset import Columns

Build = Annotated[Path, Option(help="Where the folders of the runs are.")]
Repository = Annotated[Path, Option(help="The model repository.")]
RepositoryAddress = Annotated[
    str, Option("--repository", help="The model repository: a folder, or an address as in s3://bucket/models or gs://.")
]
Digests = Annotated[
    list[str] | None,
    Option(
        "--digest",
        help="Take only a version whose manifest has this SHA-256 (bantam versions --json shows it); may be given "
        "several times. What is served or measured has to come from a bucket for it.",
    ),
]
AllowNewLabels = Annotated[
    bool,
    Option("--allow-new-labels", help="Also if it has other labels, another task or shape than what is served."),
]
Device = Literal["cpu", "cuda"]
Aim = Literal["latency", "throughput", "size"]
BUILD, REPOSITORY = Path("build"), Path("model_repo")
DEFAULT_DATA = "goemotions-ekman"
PRICE = re.compile(r"(?=.*[1-9])\d+(\.\d*)?|(?=.*[1-9])\.\d+")


@dataclass(frozen=True)
class OptimizeRequest:
    """What the user asked for."""

    model: Annotated[
        str, Argument(help="A short name (minilm, bert, distilbert, ...), a hub id, a folder or a GGUF file.")
    ] = "minilm"
    data: Annotated[
        str | None,
        Option(
            help="A bundled data set, a CSV, TSV, JSONL or Parquet file, a folder of them, texts without labels, or a "
            f"hub data set id. {DEFAULT_DATA} if left out; of it the texts alone for a classifier of other labels."
        ),
    ] = None
    recipe: Annotated[
        str | None,
        Option(
            help="Which variants to make: a recipe's name, or a .toml file. If left out int8, with --target gpu the "
            "one of that name; decoder for a decoder."
        ),
    ] = None
    profile: Annotated[str, Option(help="quick: minutes, on a part of the data; full: all of it.")] = "quick"
    target: Annotated[
        Literal["cpu", "gpu"], Option(help="gpu: train on an NVIDIA GPU, and run there what was made for one.")
    ] = "cpu"
    max_hours: Annotated[
        float | None, Option(help="Refuse a training that would end later than this after the start.", min=0)
    ] = None
    max_drop: Annotated[
        float | None, Option(help="Budget: points that may be lost. The recipe's own if left out.", min=0.01)
    ] = None
    metric: Annotated[
        str | None,
        Option(
            help="What the budget is in points of: macro-f1, micro-f1, accuracy, agreement, average-precision, "
            "recall@precision=0.95, f1:LABEL; of a regression spearman, pearson. The recipe's own if left out."
        ),
    ] = None
    price: Annotated[
        list[str] | None,
        Option(
            help="Price of an hour of a machine, cpu=0.10 or, with --target gpu, gpu=0.90, to report what a million "
            "texts cost; may be given once for each."
        ),
    ] = None
    require_gain: Annotated[
        bool,
        Option("--require-gain", help="Publish nothing, and fail, if no compressed variant keeps the budget and pays."),
    ] = False
    name: Annotated[str | None, Option(help="Name to publish under; the model's own if left out.")] = None
    allow_new_labels: AllowNewLabels = False
    random_init: Annotated[
        bool, Option("--random-init", help="Random weights: plan size, latency and memory before a download.")
    ] = False
    finetune: Annotated[
        Literal["auto", "always", "never"],
        Option(help="auto: a classifier whose labels are those of the data is taken as it is, anything else trained."),
    ] = "auto"
    thresholds: Annotated[
        str | None,
        Option(
            help="Multi-label: a JSON file of a threshold a label, or one number for all, as in production; tuned "
            "on dev if left out."
        ),
    ] = None
    text_column: Annotated[str | None, Option(help="Column of the texts, if it is not found.")] = None
    text_pair_column: Annotated[str | None, Option(help="Column of the second text of a pair.")] = None
    label_column: Annotated[
        str | None, Option(help="Column of the labels, if it is not found; '' if there are none.")
    ] = None
    label_columns: Annotated[
        str | None,
        Option(
            help="Columns of 0 and 1, one a label: toxic,insult,... Or the labels' names for lists such as [0,1,0]."
        ),
    ] = None
    separator: Annotated[str | None, Option(help="Separates several labels in one cell.")] = None
    task: Annotated[
        Literal["single_label", "multi_label", "regression"] | None,
        Option(help="What the labels are, if it is not found: regression for a number such as a rating."),
    ] = None
    slice_column: Annotated[
        str | None, Option(help="Column to report quality by, such as language: each of its values on its own.")
    ] = None
    max_slice_drop: Annotated[
        float | None,
        Option(
            help="Budget: points that may be lost on any one label, text length or value of --slice-column. The "
            "recipe's own, if it has one, if left out."
        ),
    ] = None
    max_p99_ms: Annotated[
        float | None,
        Option(help="Budget: most milliseconds that 99% of the requests may take, each of one text, from one client."),
    ] = None
    max_size_mb: Annotated[float | None, Option(help="Budget: most MB (10^6 bytes) that production may ship.")] = None
    objective: Annotated[
        Aim, Option(help="Which of the variants within every budget is chosen: the fastest, or by throughput or size.")
    ] = "latency"
    accept_licence: Annotated[
        str | None,
        Option(
            envvar="BANTAM_ACCEPT_LICENCE",
            help="Licences that you accept, such as gemma: without it, what asks for one is not downloaded.",
        ),
    ] = None
    build: Build = BUILD
    repository: Repository = REPOSITORY
    command: str = ""
    """What the user typed, for the report."""

    @property
    def columns(self) -> Columns:
        """What the user says of the data's columns."""
        from optimizer.data.dataset import Columns

        return Columns(
            text=self.text_column,
            pair=self.text_pair_column,
            label=self.label_column,
            labels=tuple(name.strip() for name in (self.label_columns or "").split(",") if name.strip()),
            separator=self.separator,
            group=self.slice_column,
            task=self.task,
        )

    @property
    def prices(self) -> dict[Literal["cpu", "gpu"], float]:
        """Of an hour. Raises :class:`UserError` for what is none, and for two of one machine."""
        found: dict[Literal["cpu", "gpu"], float] = {}
        for text in self.price or ():
            device, _, value = text.partition("=")
            if device not in ("cpu", "gpu") or not PRICE.fullmatch(value):
                raise UserError(f"Got --price {text}; expected cpu= or gpu= and a price above 0, such as cpu=0.10.")
            if device in found:
                raise UserError(f"Got --price {text} and another one of {device}; expected one. Leave one out.")
            found["gpu" if device == "gpu" else "cpu"] = float(value)
        return found

    @property
    def accepted(self) -> tuple[str, ...]:
        """The licences that the user accepts, by their identifiers."""
        return tuple(name.strip().lower() for name in (self.accept_licence or "").split(",") if name.strip())

    @property
    def device(self) -> Device:
        """What PyTorch calls the target."""
        return "cuda" if self.target == "gpu" else "cpu"
