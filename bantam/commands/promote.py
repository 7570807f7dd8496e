"""``bantam promote``."""

from __future__ import annotations

from typing import Annotated

from typer import Argument

from bantam.commands.app import Json, command
from bantam.commands.publish import say
from bantam.run.request import REPOSITORY, AllowNewLabels, Digests, RepositoryAddress


@command(examples="Example:  bantam promote minilm 4")
def promote(
    model: Annotated[str, Argument(help="Published name.")],
    version: Annotated[int, Argument(help="A version that is in the repository; bantam versions lists them.", min=1)],
    repository: RepositoryAddress = str(REPOSITORY),
    allow_new_labels: AllowNewLabels = False,
    digest: Digests = None,
    as_json: Json = False,
) -> None:
    """Ask a staged version the texts that travel with it, and have it served; a running bantam serve takes it."""
    from bantam.run import release

    done = release.promote(repository, model, version, allow_new_labels=allow_new_labels, digests=digest or ())
    say(done, repository, as_json)
