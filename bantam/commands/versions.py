"""``bantam versions``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

from typer import Argument, Option

from bantam.commands.app import Json, command
from bantam.commands.terminal import log
from bantam.errors import RepositoryError
from bantam.run.request import REPOSITORY, RepositoryAddress


@command(examples="Examples:  bantam versions minilm   |   bantam versions minilm --keep 5")
def versions(
    model: Annotated[str, Argument(help="Published name.")],
    repository: RepositoryAddress = str(REPOSITORY),
    keep: Annotated[
        int | None,
        Option(
            help="Remove the oldest, so that so many are left; never the served one, the one before it or newer ones.",
            min=0,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the versions of a model, newest first: which one is served, and what bantam rollback returns to."""
    from serving.address import repository_at

    there = repository_at(repository)
    if keep is not None:
        log(f"removed {', '.join(map(str, there.prune(model, keep))) or 'none'}")
    found = list(there.listed(model))
    if not found:
        raise RepositoryError(f"{repository} has no version of {model!r}. `bantam publish` brings one there.")
    if as_json:
        print(json.dumps([asdict(version) for version in found], indent=1))
        return
    print(f"{'version':>7}  {'state':<9}{'written':<26}{'digest':<14}{'MB':>8}  licences")
    for each in found:
        size, licences = f"{each.size_bytes / 1e6:.1f}", each.problem or "; ".join(each.licences) or "-"
        print(f"{each.number:>7}  {each.state:<9}{each.written:<26}{each.digest[:12]:<14}{size:>8}  {licences}")
