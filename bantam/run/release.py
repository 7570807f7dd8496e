"""From a version or a run to what is served: staged in a repository, asked its own texts, promoted."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bantam.artifact import MANIFEST, Artifact, Signature
from bantam.errors import RepositoryError
from bantam.report.file import REPORT_JSON, read_report
from bantam.run.canary import Canary, ask
from bantam.run.request import REPOSITORY
from serving import repository as folder_repository
from serving.listing import other_interface
from serving.remote import Remote, is_remote
from serving.repository import Version, discard, published, take
from serving.version_folder import content_of


@dataclass(frozen=True)
class Released:
    """What became of a version in a repository."""

    name: str
    version: int
    written: bool
    """Whether it was not there before."""
    promoted: bool
    """Whether it is the served one now and was not before."""
    before: int | None
    """What was served until now."""
    answered: Canary | None
    """What it answered; None if it was not to be promoted."""


def publish(
    source: str,
    target: str,
    *,
    name: str | None = None,
    promote: bool = True,
    allow_new_labels: bool = False,
    digests: Sequence[str] = (),
) -> Released:
    """Stage a copy of a version in the repository ``target``, and unless told otherwise check and promote it.

    ``source``: a version's folder or address, or a run's folder. ``digests``: of manifests; a source in a bucket has to
    have one of them. Raises :class:`RepositoryError`, :class:`UnfaithfulError`, :class:`ServerError`; what was staged
    is then removed, and what is served stays.
    """
    with _source(source, digests) as folder:
        name = name or folder.parent.name
        if is_remote(target):
            return _to_bucket(folder, Remote(target), name, promote, allow_new_labels)
        staged = take(folder, Path(target), name)
        try:
            return _in_folder(staged, promote, allow_new_labels)
        except BaseException:
            if staged.changed:
                discard(staged)
            raise


def promote(
    target: str, name: str, number: int, *, allow_new_labels: bool = False, digests: Sequence[str] = ()
) -> Released:
    """Check a version that is in the repository ``target``, and have it served; raises what :func:`publish` raises."""
    if not is_remote(target):
        folder = Path(target) / name / str(number)
        if not (folder / MANIFEST).is_file():
            raise RepositoryError(f"{folder} is no version. `bantam versions {name}` lists those that are there.")
        return _in_folder(Version(name, number, folder), True, allow_new_labels)
    remote = Remote(target)
    with tempfile.TemporaryDirectory(prefix="bantam-version-") as scratch:
        staged = _fetched(remote, name, number, Path(scratch), digests)
        before = _refuse_another_interface(_served_there(remote, name), staged, allow_new_labels)
        answered = ask(staged, target)
    return Released(name, number, False, remote.promote(name, number), before, answered)


def _in_folder(staged: Version, promote: bool, allow_new_labels: bool) -> Released:
    folder_repository.verified(staged.folder)
    served: Version | None = None
    with contextlib.suppress(RepositoryError):  # nobody can serve from a damaged config.pbtxt: a promote mends it
        served = published(staged.root, staged.name)
    answered, promoted, before = None, False, served.number if served else None
    if promote:
        if served:
            there = served.number, Artifact.described(served.folder).manifest.signature
            _refuse_another_interface(there, staged, allow_new_labels)
        answered = ask(staged, str(staged.root))
        promoted = folder_repository.promote(staged).changed
    return Released(staged.name, staged.number, staged.changed, promoted, before, answered)


def _to_bucket(folder: Path, remote: Remote, name: str, promote: bool, allow_new_labels: bool) -> Released:
    with tempfile.TemporaryDirectory(prefix="bantam-version-") as scratch:
        staged = take(folder, Path(scratch), name, number=remote.free(name))
        there = _served_there(remote, name)
        before = there[0] if there else None
        if promote:
            _refuse_another_interface(there, staged, allow_new_labels)
        answered = ask(staged, remote.url) if promote else None
        found = remote.find(name, str(content_of(staged.folder)))
        if found is None:
            remote.upload(staged)
        number = found or staged.number
        promoted = promote and remote.promote(name, number)
    return Released(name, number, found is None, promoted, before, answered)


def _served_there(remote: Remote, name: str) -> tuple[int, Signature] | None:
    served = remote.served(name)
    if served is None:
        return None
    with tempfile.TemporaryDirectory(prefix="bantam-version-") as scratch:
        return served.number, remote.describe(name, served.number, Path(scratch)).manifest.signature


def _refuse_another_interface(there: tuple[int, Signature] | None, staged: Version, allowed: bool) -> int | None:
    """Refuse what clients of the served version would not understand; returns the number of that version."""
    if there is None:
        return None
    number, signature = there
    other = other_interface(signature, Artifact.described(staged.folder).manifest.signature)
    if other and not allowed:
        raise RepositoryError(
            f"{staged.name} would be something else to its clients than version {number}, which is served: {other}. "
            "Publish it under another name (--name), or with --allow-new-labels if they know."
        )
    return number


def _fetched(remote: Remote, name: str, number: int, scratch: Path, digests: Sequence[str]) -> Version:
    folder = scratch / name / str(number)
    folder.mkdir(parents=True)
    return remote.fetch(name, number, folder, digests)


@contextlib.contextmanager
def _source(source: str, digests: Sequence[str]) -> Iterator[Path]:
    """The version folder that is meant, ``<name>/<number>``."""
    if is_remote(source):
        url, name, number = [*source.rstrip("/").rsplit("/", 2), "", ""][:3]
        if not number.isdecimal():
            raise RepositoryError(f"Got {source}, expected a version's address, as in s3://bucket/models/minilm/3.")
        with tempfile.TemporaryDirectory(prefix="bantam-version-") as scratch:
            yield _fetched(Remote(url), name, int(number), Path(scratch), digests).folder
        return
    folder = Path(source)
    if digests:
        raise RepositoryError(f"Got a digest for {source}; expected one for an address such as s3://bucket/models.")
    if (folder / REPORT_JSON).is_file():
        made = read_report(folder).published
        if made is None:
            raise RepositoryError(f"{folder}: this run has published nothing; its report says why.")
        folder = Path(made.repository or REPOSITORY) / made.name / str(made.version)
    if not (folder / MANIFEST).is_file() or not folder.name.isdecimal():
        raise RepositoryError(
            f"{folder}: expected a version's folder, such as model_repo/minilm/3, or a run's, such as build/RUN."
        )
    yield folder.absolute()
