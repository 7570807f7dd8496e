"""``bantam publish``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from bantam.commands.app import Json, command
from bantam.commands.terminal import log
from bantam.run.request import REPOSITORY, AllowNewLabels, Digests, RepositoryAddress

if TYPE_CHECKING:
    from bantam.run.release import Released


@command(
    examples="Examples:  bantam publish build/RUN --repository /srv/models   |   "
    "bantam publish model_repo/minilm/3 --repository s3://bucket/models"
)
def publish(
    source: Annotated[
        str,
        Argument(help="A version (model_repo/minilm/3, s3://bucket/models/minilm/3), or a run: what it has published."),
    ],
    name: Annotated[str | None, Option(help="Name to publish it under; its own if left out.")] = None,
    repository: RepositoryAddress = str(REPOSITORY),
    allow_new_labels: AllowNewLabels = False,
    no_promote: Annotated[
        bool, Option("--no-promote", help="Stage it only: bantam promote checks it and has it served.")
    ] = False,
    digest: Digests = None,
    as_json: Json = False,
) -> None:
    """Bring a version into a repository as its next one, ask it the texts that travel with it, and promote it."""
    from bantam.run import release

    done = release.publish(
        source,
        repository,
        name=name,
        promote=not no_promote,
        allow_new_labels=allow_new_labels,
        digests=digest or (),
    )
    say(done, repository, as_json)


def say(done: Released, repository: str, as_json: bool) -> None:
    """What became of a version: for people, and with ``as_json`` for scripts on standard output."""
    if as_json:
        print(json.dumps({"repository": repository, **asdict(done)}))
    log(f"{done.name} {done.version} {'is written to' if done.written else 'is there already, in'} {repository}")
    if done.answered is None:
        log(f"It is not served: bantam promote {done.name} {done.version} --repository {repository}")
        return
    for warning in done.answered.warnings:
        log(f"WARNING: {warning}")
    if done.answered.rows:
        log(
            f"It answered {done.answered.rows} texts with scores within {done.answered.max_score_difference:.1e} of "
            f"those recorded; {done.answered.allowed:g} is allowed here."
        )
    back = f" bantam rollback {done.name} returns to {done.before}." if done.before and done.promoted else ""
    log(f"{done.name} {done.version} {'is promoted.' if done.promoted else 'was the served version before.'}{back}")
