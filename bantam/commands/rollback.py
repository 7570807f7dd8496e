"""``bantam rollback``."""

from __future__ import annotations

import json
from typing import Annotated

from typer import Argument

from bantam.commands.app import Json, command
from bantam.commands.terminal import log
from bantam.run.request import REPOSITORY, RepositoryAddress


@command(examples="Example:  bantam rollback minilm")
def rollback(
    model: Annotated[str, Argument(help="Published name.")],
    repository: RepositoryAddress = str(REPOSITORY),
    as_json: Json = False,
) -> None:
    """Serve the version of a model that was served before; a running bantam serve takes it at once."""
    from serving.address import repository_at

    now, before = repository_at(repository).rollback(model)
    if as_json:
        print(json.dumps({"model": model, "version": now, "before": before}))
    log(f"{model} is version {now} again. The same command returns to {before if before else 'none'}.")
