"""``bantam rollback``."""

from __future__ import annotations

import json
from pathlib import Path
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
    from serving import repository as model_repository
    from serving.remote import Remote, is_remote

    if is_remote(repository):
        now, before = Remote(repository).rollback(model)
    else:
        left = model_repository.published(Path(repository), model)
        now, before = model_repository.rollback(Path(repository), model).number, left.number if left else None
    if as_json:
        print(json.dumps({"model": model, "version": now, "before": before}))
    log(f"{model} is version {now} again. The same command returns to {before if before else 'none'}.")
