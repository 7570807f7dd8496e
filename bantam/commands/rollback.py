"""``bantam rollback``."""

from __future__ import annotations

import json
from typing import Annotated

from typer import Argument

from bantam.commands.app import Json, command
from bantam.commands.terminal import log
from bantam.run.request import REPOSITORY, Repository


@command(examples="Example:  bantam rollback minilm")
def rollback(
    model: Annotated[str, Argument(help="Published name.")],
    repository: Repository = REPOSITORY,
    as_json: Json = False,
) -> None:
    """Serve the version of a model that was served before; a running bantam serve takes it at once."""
    from serving import repository as model_repository

    left = model_repository.published(repository, model)
    version = model_repository.rollback(repository, model)
    if as_json:
        print(json.dumps({"model": model, "version": version.number, "before": left.number if left else None}))
    log(f"{model} is version {version.number} again. The same command returns to {left.number if left else 'none'}.")
