"""What a labelling is asked for. Each field is an option of ``bantam label``, with its type, default and help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typer import Argument, Option

from bantam.run.request import REPOSITORY, Digests, RepositoryAddress

SHARD_ROWS = 16_384


@dataclass(frozen=True)
class LabelRequest:
    """What the user asked for."""

    source: Annotated[
        str,
        Argument(
            metavar="IN", help="A CSV, TSV, JSONL or Parquet file: a path, or an address as in s3://bucket/in.csv."
        ),
    ]
    target: Annotated[
        str, Argument(metavar="OUT", help="The file to write, of any of these formats, by its suffix; or an address.")
    ]
    model: Annotated[
        str, Option("--model", help="A published name, or the folder of a version or of a run's variant.")
    ] = "minilm"
    repository: RepositoryAddress = str(REPOSITORY)
    digest: Digests = None
    text_column: Annotated[
        str | None, Option("--text-column", "--text", help="Column of the texts, if it is not found.")
    ] = None
    text_pair_column: Annotated[
        str | None, Option("--text-pair-column", "--text-pair", help="Column of the second text of a pair.")
    ] = None
    thresholds: Annotated[
        str | None,
        Option(help="Multi-label: a JSON file of a threshold a label, or one for all, in place of the model's own."),
    ] = None
    overwrite: Annotated[bool, Option("--overwrite", help="Put the output in the place of a file that is there.")] = (
        False
    )
    workers: Annotated[
        int | None, Option(help="Processes, each with an engine of one thread; one a core if left out.", min=1)
    ] = None
    ray: Annotated[
        str | None, Option(help="Address of a Ray cluster to label on, or local; each of its cores is a worker.")
    ] = None
    shard_rows: Annotated[
        int, Option(help="Rows that are written together: what a kill loses at most, beside what is under way.", min=1)
    ] = SHARD_ROWS
