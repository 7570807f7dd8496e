"""From a version or a run to what is served: staged in a repository, asked its own texts, promoted."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bantam.artifact import MANIFEST, Artifact, Signature
from bantam.errors import ArtifactError, RepositoryError
from bantam.report.file import REPORT_JSON, read_report
from bantam.run.canary import Canary, ask
from bantam.run.request import REPOSITORY
from serving import repository as folder_repository
from serving.address import is_remote
from serving.listing import check_interface, interface_of
from serving.pulled import check_digest, check_files, check_manifest
from serving.remote import Remote
from serving.repository import Version, discard, take
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

    ``source``: a version's folder or address, or a run's folder. ``digests``: of manifests; the source has to have one
    of them. Raises :class:`RepositoryError`, :class:`ArtifactError` for what nobody would take from a bucket,
    :class:`UnfaithfulError`, :class:`ServerError`; what was staged is then removed, and what is served stays.
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
        check_digest(folder, digests, str(folder))
        return _in_folder(Version(name, number, folder), True, allow_new_labels)
    return _from_bucket(Remote(target), name, number, allow_new_labels, digests)


def _in_folder(staged: Version, promote: bool, allow_new_labels: bool) -> Released:
    folder_repository.verified(staged.folder)
    there = interface_of(staged.root, staged.name)
    answered, promoted, before = None, False, there[0] if there else None
    if promote:
        check_interface(staged.name, there, _signature(staged), allow_new_labels)
        answered = ask(staged, str(staged.root))
        promoted = folder_repository.promote(staged).changed
    return Released(staged.name, staged.number, staged.changed, promoted, before, answered)


def _to_bucket(folder: Path, remote: Remote, name: str, promote: bool, allow_new_labels: bool) -> Released:
    with tempfile.TemporaryDirectory(prefix="bantam-version-") as scratch:
        staged = take(folder, Path(scratch), name, number=remote.free(name))
        _check_takeable(staged, folder)
        there = _served_there(remote, name)
        before = there[0] if there else None
        found = remote.find(name, str(content_of(staged.folder)))
        if found is not None:
            if not promote:
                return Released(name, found, False, False, before, None)
            with contextlib.suppress(ArtifactError):  # what nobody can take from there is written once more
                return _from_bucket(remote, name, found, allow_new_labels)
        if promote:
            check_interface(name, there, _signature(staged), allow_new_labels)
        answered = ask(staged, remote.url) if promote else None
        remote.upload(staged)
        promoted = promote and remote.promote(name, staged.number)
    return Released(name, staged.number, True, promoted, before, answered)


def _from_bucket(
    remote: Remote, name: str, number: int, allow_new_labels: bool, digests: Sequence[str] = ()
) -> Released:
    """Fetch what is there already, ask it, promote it."""
    with tempfile.TemporaryDirectory(prefix="bantam-version-") as scratch:
        staged = _fetched(remote, name, number, Path(scratch), digests)
        there = _served_there(remote, name)
        check_interface(name, there, _signature(staged), allow_new_labels)
        answered = ask(staged, remote.url)
    return Released(name, number, False, remote.promote(name, number), there[0] if there else None, answered)


def _check_takeable(staged: Version, source: Path) -> None:
    """Refuse what no server would take from a bucket, before it is there."""
    check_manifest(Artifact.described(staged.folder), str(source))
    check_files(Artifact.described(staged.folder), staged.name, staged.number, str(source))


def _served_there(remote: Remote, name: str) -> tuple[int, Signature] | None:
    """Number and signature of what is served; None if nothing is, or it is damaged: a promote mends that."""
    served = remote.served(name)
    if served is None:
        return None
    with contextlib.suppress(ArtifactError), tempfile.TemporaryDirectory(prefix="bantam-version-") as scratch:
        return served.number, remote.describe(name, served.number, Path(scratch)).manifest.signature
    return None


def _signature(version: Version) -> Signature:
    return Artifact.described(version.folder).manifest.signature


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
    if (folder / REPORT_JSON).is_file():
        made = read_report(folder).published
        if made is None:
            raise RepositoryError(f"{folder}: this run has published nothing; its report says why.")
        folder = Path(made.repository or REPOSITORY) / made.name / str(made.version)
    if not (folder / MANIFEST).is_file() or not folder.name.isdecimal():
        raise RepositoryError(
            f"{folder}: expected a version's folder, such as model_repo/minilm/3, or a run's, such as build/RUN."
        )
    check_digest(folder, digests, str(folder))
    yield folder.absolute()
