"""``bantam card``."""

from __future__ import annotations

import json

from bantam.commands.app import Json, command
from bantam.commands.report import RunFolder
from bantam.commands.terminal import log
from bantam.run.request import BUILD, Build


@command(examples="Examples:  bantam card   |   bantam card build/minilm-goemotions-ekman-int8-quick")
def card(run: RunFolder = None, build: Build = BUILD, as_json: Json = False) -> None:
    """Write a run's model card for the Hugging Face hub: card/README.md in the run's folder."""
    from bantam.report.file import newest, read_report
    from bantam.report.model_card import metadata, write_card

    run = run or newest(build)
    found = read_report(run)
    path = write_card(found, run if run.is_dir() else run.parent)
    if as_json:
        print(json.dumps({"path": str(path), "metadata": metadata(found).to_dict()}, indent=1))
    else:
        print(path)
        log("Read it, and say in it what only you know: what it is for, and where the texts come from. Then upload")
        log("it with the model: hf upload OWNER/NAME FOLDER")
