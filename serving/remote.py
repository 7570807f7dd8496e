"""A model repository in a bucket, ``s3://`` or ``gs://``, laid out like one in a folder: see :mod:`serving.repository`.

An object is there as a whole or not at all, a folder of them is not. So a version's ``config.pbtxt`` is written when
all else of it is there, and the model's own, which names the version that is served, after that: nobody reads half.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bantam.artifact import MANIFEST, Artifact
from bantam.errors import ArtifactError, BantamError, RepositoryError, reason
from serving import version_folder
from serving.listing import Listed, entry, state_of
from serving.pulled import check_digest, check_files, check_manifest
from serving.repository import NAME, Version
from serving.triton_config import CONFIG, GPU_CONFIG, ServedVersion, following, served_version
from serving.version_folder import EVIDENCE

EXTRAS = {"s3": "s3", "gs": "gs"}
"""Scheme of an address -> what of Bantam has to be installed for it."""


def file_system(url: str, **options: Any) -> tuple[Any, str]:
    """The file system for an address, as fsspec has it with ``options`` of it, and the path there.

    Raises :class:`RepositoryError` for an address of no known kind, and where a library for it is missing.
    """
    scheme = url.partition("://")[0]
    if scheme not in EXTRAS:
        raise RepositoryError(f"Got {url}, expected a folder, or an address as in s3://bucket/models or gs://.")
    try:
        from fsspec.core import url_to_fs

        with asking(url):
            found: tuple[Any, str] = url_to_fs(url, **options)
            return found
    except ImportError as exc:
        raise RepositoryError(
            f"{url} needs more than is installed ({exc}): pip install '.[{EXTRAS[scheme]}]' in Bantam's folder."
        ) from exc


@contextlib.contextmanager
def asking(what: str) -> Iterator[None]:
    """Errors of the bucket's libraries, each of which has a tree of its own, become one of ours."""
    try:
        yield
    except (BantamError, ImportError):
        raise
    except Exception as exc:
        raise RepositoryError(
            f"{what}: {reason(exc)}. Expected a bucket that can be reached, and credentials for it."
        ) from exc


class Remote:
    """The repository at an address. Every method raises :class:`RepositoryError` if the bucket does not do as asked."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        # Others write to it too: what was listed a moment ago does not count.
        self._fs, self._root = file_system(self.url, use_listings_cache=False)

    def models(self) -> list[str]:
        """Names of the models that are published there, sorted."""
        return [name for name in self._names() if NAME.fullmatch(name) and self._read(name, CONFIG) is not None]

    def served(self, name: str) -> ServedVersion | None:
        """Which version is served, and was before; None if none is."""
        text = self._text(name, CONFIG)
        return None if text is None else served_version(text)

    def numbers(self, name: str, *, whole: bool = True) -> list[int]:
        """The versions that are there, sorted; ``whole``: without those that somebody is still writing, or left."""
        found = sorted(int(number) for number in self._names(name) if number.isdecimal())
        return [number for number in found if not whole or CONFIG in self._names(name, str(number))]

    def describe(self, name: str, number: int, into: Path) -> Artifact:
        """What a version's manifest says; it is written into the folder ``into``.

        Raises :class:`ArtifactError` if it is no manifest.
        """
        manifest = self._read(name, str(number), MANIFEST)
        if manifest is None or CONFIG not in self._names(name, str(number)):
            raise RepositoryError(
                f"{self.url}/{name} has no version {number}; expected one of: "
                f"{', '.join(map(str, self.numbers(name))) or 'none'}."
            )
        into.mkdir(parents=True, exist_ok=True)
        (into / MANIFEST).write_bytes(manifest)
        return Artifact.described(into)

    def has(self, name: str, number: int, manifest: Path) -> bool:
        """Whether the version there has this manifest."""
        return self._read(name, str(number), MANIFEST) == manifest.read_bytes()

    def find(self, name: str, content: str) -> int | None:
        """The newest whole version of this content."""
        for number in reversed(self.numbers(name)):
            with contextlib.suppress(ArtifactError), tempfile.TemporaryDirectory() as folder:
                if self.describe(name, number, Path(folder)).manifest.details.get("content") == content:
                    return number
        return None

    def fetch(self, name: str, number: int, folder: Path, digests: Sequence[str] = ()) -> Version:
        """Bring a version into an empty folder.

        Raises :class:`ArtifactError` for what is not as its manifest says, or brings code that is not ours; with
        ``digests`` also for a version whose manifest has another SHA-256 than these.
        """
        what = f"{self.url}/{name}/{number}"
        version = self.describe(name, number, folder)
        check_digest(folder, digests, what)
        check_manifest(version, what)
        for file in version.manifest.files:
            (folder / file).parent.mkdir(exist_ok=True)
            with self._asking(f"{what}/{file}"):
                self._fs.get_file(self._path(name, str(number), file), str(folder / file))
        if (evidence := self._read(name, str(number), EVIDENCE)) is not None:
            (folder / EVIDENCE).write_bytes(evidence)
        check_files(version, name, number, what)
        return Version(name, number, folder)

    def upload(self, version: Version) -> None:
        """Write a staged version under its number, which has to be free: see :meth:`free`."""
        known = Artifact.load(version.folder).manifest.files
        place = (version.name, str(version.number))
        manifest = (version.folder / MANIFEST).read_bytes()
        with self._asking(f"{self.url}/{'/'.join(place)}"):
            try:  # who writes the manifest has the number
                self._fs.pipe_file(self._path(*place, MANIFEST), manifest, mode="create")
            except Exception as exc:
                if self._read(*place, MANIFEST) is None:
                    raise
                raise RepositoryError(
                    f"{self.url}/{'/'.join(place)} is being written by somebody else; run it again."
                ) from exc
            evidence = [EVIDENCE] * (version.folder / EVIDENCE).is_file()
            for file in sorted([*known, *evidence]):
                if file != CONFIG:
                    self._fs.put_file(str(version.folder / file), self._path(*place, file))
        # Somebody may have pruned it as what a killed upload left.
        own = {"bytes": len(manifest)}
        self._check_there(*place, {MANIFEST: own, **{file: known[file] for file in {*known} - {CONFIG}}})
        with self._asking(f"{self.url}/{'/'.join(place)}"):
            self._fs.put_file(str(version.folder / CONFIG), self._path(*place, CONFIG))

    def free(self, name: str) -> int:
        """The number that the next version gets."""
        return max(self.numbers(name, whole=False), default=0) + 1

    def promote(self, name: str, number: int) -> bool:
        """Make a version the served one; returns whether it was not. One that is not whole is refused.

        What a kill has left undone it does when it is asked for again: see :mod:`serving.repository`.
        """
        text, before = self._text(name, str(number), CONFIG), self._text(name, CONFIG)
        if text is None:
            raise RepositoryError(f"{self.url}/{name} has no version {number}. Publish it first.")
        served = None if before is None else served_version(before)
        changed = served is None or served.number != number
        config = before if before and not changed else text
        if served and changed:
            published = self._text(name, str(served.number), CONFIG)
            config = following(text, served.number, before or "", published or "")
        with tempfile.TemporaryDirectory() as folder:
            known = self.describe(name, number, Path(folder)).manifest.files
            on_gpu = version_folder.gpu_config(Path(folder), config)
        if changed:
            self._check_there(name, str(number), known)
            with self._asking():
                self._fs.pipe_file(self._path(name, CONFIG), config.encode())
        self._put_gpu_config(name, None if on_gpu is None else on_gpu.encode())
        return changed

    def rollback(self, name: str) -> ServedVersion:
        """Make the version served that was before; returns what is now, and was. What is served stays on errors."""
        served = self.served(name)
        if served is None or served.previous is None:
            held = f"version {served.number} is the only one" if served else "no version"
            raise RepositoryError(f"{self.url}/{name}: {held} that was served, expected one before it to return to.")
        try:
            self.promote(name, served.previous)
        except (ArtifactError, RepositoryError) as exc:
            raise RepositoryError(f"{name} stays at version {served.number}: {exc}") from exc
        return ServedVersion(served.previous, served.number)

    def listed(self, name: str) -> Iterator[Listed]:
        """All whole versions of a model, the newest first."""
        served = self.served(name)
        for number in reversed(self.numbers(name)):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    version = self.describe(name, number, Path(folder))
                    with self._asking():
                        written = self._fs.modified(self._path(name, str(number), MANIFEST)).timestamp()
                    yield entry(number, served, version, written)
                except ArtifactError as exc:
                    yield Listed(number, state_of(number, served), "", "", (), 0, str(exc))

    def prune(self, name: str, keep: int) -> list[int]:
        """Remove old versions, and what was left of killed uploads: see :func:`serving.repository.prune`."""
        whole, served = self.numbers(name), self.served(name)
        left = [number for number in self.numbers(name, whole=False) if number not in whole]
        outdated = version_folder.outdated(whole, served, keep) + version_folder.outdated(left, served, 0)
        removed = []
        for number in sorted(outdated):
            if number in (self.served(name) or ()):  # promoted, or rolled back to, since
                continue
            with self._asking():
                if CONFIG in self._names(name, str(number)):
                    self._fs.rm_file(self._path(name, str(number), CONFIG))  # from here on it is no version any more
                self._fs.rm(self._path(name, str(number)), recursive=True)
            removed.append(number)
        return removed

    def _put_gpu_config(self, name: str, content: bytes | None) -> None:
        """Have the model's ``configs/gpu.pbtxt`` be this, or not be there."""
        if content == self._read(name, GPU_CONFIG):
            return
        with self._asking():
            if content is None:
                self._fs.rm_file(self._path(name, GPU_CONFIG))
            else:
                self._fs.pipe_file(self._path(name, GPU_CONFIG), content)

    def _check_there(self, name: str, number: str, files: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise :class:`RepositoryError` for a file of a version that is not there, or of another size."""
        place = self._path(name, number)
        with self._asking():
            there = self._fs.find(place, detail=True)
        for file, known in files.items():
            size = there.get(f"{place}/{file}", {}).get("size")
            if size != known["bytes"]:
                found = "is not there" if size is None else f"has {size} bytes"
                raise RepositoryError(
                    f"{self.url}/{name}/{number}/{file} {found}, expected {known['bytes']} bytes. Publish it again."
                )

    def _path(self, *parts: str) -> str:
        return "/".join((self._root, *parts))

    def _names(self, *parts: str) -> list[str]:
        with self._asking(), contextlib.suppress(FileNotFoundError):
            return sorted({str(path).rstrip("/").rpartition("/")[2] for path in self._fs.ls(self._path(*parts), False)})
        return []

    def _read(self, *parts: str) -> bytes | None:
        with self._asking(), contextlib.suppress(FileNotFoundError):
            content: bytes = self._fs.cat_file(self._path(*parts))
            return content
        return None

    def _text(self, *parts: str) -> str | None:
        content = self._read(*parts)
        try:
            return None if content is None else content.decode()
        except UnicodeDecodeError as exc:
            raise RepositoryError(f"{self.url}/{'/'.join(parts)} is no text ({exc}). Publish the model again.") from exc

    def _asking(self, what: str = "") -> contextlib.AbstractContextManager[None]:
        return asking(what or self.url)
