"""``bantam label``."""

from __future__ import annotations

import json
from dataclasses import asdict

from bantam.commands.app import Json, command
from bantam.commands.terminal import log, progress, stop_on_sigterm
from bantam.label.request import LabelRequest


@command(
    examples="Examples:  bantam label reviews.csv labelled.csv   |   "
    "bantam label in.jsonl out.parquet --model minilm --text body   |   "
    "bantam label s3://bucket/in.parquet s3://bucket/out.parquet --ray auto"
)
def label(request: LabelRequest, as_json: Json = False) -> None:
    """Label a corpus of any size in this process's own workers, without a server: its rows, with labels and scores.

    Run it again after a failure or a kill: what is finished is kept, and each row comes out once.
    """
    from bantam.label.run import label as run

    stop_on_sigterm()
    done = run(request, progress, log)
    if as_json:
        print(json.dumps(asdict(done), indent=1, ensure_ascii=False))
    speed = "" if done.texts_per_second is None else f", {done.texts_per_second:,.0f} rows a second"
    log(f"{done.output}: {done.rows:,} rows, labelled by {done.model}{speed}")
    if done.without_text:
        log(f"rows without text, which have no labels and scores: {done.without_text:,}")
