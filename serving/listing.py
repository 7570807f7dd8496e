"""What a model repository says of its versions: what they stand for, take and give, and which one is served."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bantam.artifact import MANIFEST, Artifact, Signature, sha256
from bantam.errors import ArtifactError, RepositoryError
from serving import version_folder
from serving.repository import published, served_in
from serving.triton_config import ServedVersion
from serving.version_folder import Identity

State = Literal["served", "previous", "staged", "old"]


@dataclass(frozen=True)
class Listed:
    """A version as ``bantam versions`` lists it."""

    number: int
    state: State
    """``previous``: what ``bantam rollback`` returns to. ``staged``: newer than both; not served yet, or no longer."""
    written: str
    """When, ISO 8601 in UTC."""
    digest: str
    """SHA-256 of its manifest, which has those of all its files."""
    licences: tuple[str, ...]
    size_bytes: int
    problem: str = ""
    """Why it cannot be read, if so."""


def listed(root: Path, name: str) -> Iterator[Listed]:
    """All versions of a model, the newest first. Raises :class:`RepositoryError` if its config.pbtxt is damaged."""
    served = served_in(root, name)
    for number in reversed(version_folder.numbers(root / name)):
        folder = root / name / str(number)
        try:
            yield entry(number, served, Artifact.load(folder), (folder / MANIFEST).stat().st_mtime)
        except ArtifactError as exc:
            yield Listed(number, state_of(number, served), "", "", (), 0, str(exc))


def entry(number: int, served: ServedVersion | None, version: Artifact, written: float) -> Listed:
    """One version, whose manifest is in ``version.folder``; ``written``: when, in seconds since 1970."""
    files = version.manifest.files.values()
    return Listed(
        number=number,
        state=state_of(number, served),
        written=datetime.datetime.fromtimestamp(written, datetime.UTC).isoformat(timespec="seconds"),
        digest=sha256(version.folder / MANIFEST),
        licences=tuple(licence.title or licence.name for licence in version.manifest.licences),
        size_bytes=sum(int(file["bytes"]) for file in files),
    )


def state_of(number: int, served: ServedVersion | None) -> State:
    """What a version is beside the one that is served."""
    if served is None or number > max(served.number, served.previous or 0):
        return "staged"
    if number == served.number:
        return "served"
    return "previous" if number == served.previous else "old"


def identity(root: Path, name: str) -> Identity | None:
    """What the published ``name`` stands for; None if nothing is published, or it does not say.

    Raises :class:`RepositoryError` if it is damaged.
    """
    version = published(root, name)
    if version is None:
        return None
    try:
        recorded = Artifact.load(version.folder).manifest.details.get("identity")
        return Identity(**recorded) if recorded else None
    except (ArtifactError, TypeError) as exc:
        raise RepositoryError(f"{version.folder} cannot be read: {exc}") from exc


def other_interface(was: Signature, now: Signature) -> str:
    """What clients of one version would meet in another: other labels, another task or shape; empty if nothing.

    The order of the labels may change: clients decide by their names.
    """
    shape = {False: "single texts", True: "pairs of texts"}
    changes = []
    if was.task != now.task:
        changes.append(f"the task is {now.task} in place of {was.task}")
    if was.pair != now.pair:
        changes.append(f"it reads {shape[now.pair]} in place of {shape[was.pair]}")
    if new := [label for label in now.labels if label not in was.labels]:
        changes.append(f"new labels: {', '.join(map(repr, new))}")
    if gone := [label for label in was.labels if label not in now.labels]:
        changes.append(f"labels that are gone: {', '.join(map(repr, gone))}")
    return "; ".join(changes)


def interface_of(root: Path, name: str) -> tuple[int, Signature] | None:
    """Number and signature of the version that is served; None if none is, or it is damaged: a promote mends that."""
    with contextlib.suppress(ArtifactError, RepositoryError):
        if version := published(root, name):
            return version.number, Artifact.described(version.folder).manifest.signature
    return None


def check_interface(name: str, there: tuple[int, Signature] | None, now: Signature, allowed: bool) -> None:
    """Raise :class:`RepositoryError` if clients of what is served ``there`` would not understand what is to follow."""
    if allowed or there is None:
        return
    number, was = there
    if other := other_interface(was, now):
        raise RepositoryError(
            f"{name} would be something else to its clients than version {number}, which is served: {other}. "
            "Publish it under another name (--name), or with --allow-new-labels if they know."
        )
