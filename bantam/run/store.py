"""Finished artifacts by key, shared by all runs of a build folder::

    build/store/<key>/          a finished artifact
    build/<run>/<stage>         a link to it: what a run shows is in use

An artifact is written beside its place and renamed into it, while its key is locked: nothing half-written is ever used,
and what two runs need is made by one of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from bantam.artifact import MANIFEST, Artifact
from bantam.errors import ArtifactError
from bantam.files import replacing, write_text, writing
from bantam.licence import Licence, all_licences, licences_in

STORE = "store"
KEY_LENGTH = 32
"""Hexadecimal digits of a key that name its folder: 128 bits."""


@dataclass(frozen=True)
class Removed:
    """An artifact that no run uses."""

    folder: Path
    size_bytes: int


class Store:
    """The artifacts of a build folder."""

    def __init__(self, build: Path, log: Callable[[str], None] = print) -> None:
        self.build, self.root, self._log = build, build / STORE, log

    def get_or_make(
        self, key: str, make: Callable[[Path], object], link: Path, licences: tuple[Licence, ...] = ()
    ) -> Artifact:
        """The artifact of this key as ``link``, which is made to show it; if it is not there whole, ``make`` writes it.

        ``make`` gets an empty folder and writes files and manifest there. Waits for another process that is making the
        same. Whoever made it, its manifest then names these ``licences`` too: who starts from its folder finds them
        there. Raises what ``make`` raises, and :class:`DiskFullError`.
        """
        final = self.folder(key)
        with writing(final), self._locked(key, waiting_for=link.name):
            known = self.shows(link, key)
            if known is None and not self._is_whole(key):
                for outdated in self.root.glob(f"{final.name}.tmp-*"):
                    shutil.rmtree(outdated, ignore_errors=True)
                with replacing(final) as temporary:
                    make(temporary)
            if _name_licences(final, licences) or known is None:
                _show(final, link)
        return Artifact.load(link)

    def shows(self, link: Path, key: str) -> Artifact | None:
        """What ``link`` shows, if that is the artifact of this key and nothing of it is missing."""
        with contextlib.suppress(ArtifactError, OSError):
            artifact = Artifact.load(link)
            # A link may be a copy, of what was in the store when it was made.
            if artifact.manifest.key == key and _manifest(link) == _manifest(self.folder(key)):
                return artifact
        return None

    def folder(self, key: str) -> Path:
        """Where the artifact of this key is, or would be."""
        return self.root / key[:KEY_LENGTH]

    def show_only(self, names: Collection[str], run: Path) -> None:
        """Have a run's folder show artifacts under no other names; what it showed stays here until it is collected."""
        for link in [manifest.parent for manifest in run.glob(f"*/{MANIFEST}") if manifest.parent.name not in names]:
            if link.resolve().parent == self.root.resolve():
                link.unlink()
            elif not link.is_symlink() and self._is_copy(link):
                shutil.rmtree(link)

    def collect(self, *, dry_run: bool = False) -> list[Removed]:
        """Remove what no run shows, and what killed processes left half-written; returns the artifacts, by folder.

        What is being made or taken right now stays. With ``dry_run``, nothing is removed.
        """
        found = []
        for folder in sorted(path for path in self.root.glob("*") if path.is_dir()):
            name = folder.name.partition(".")[0]
            with contextlib.suppress(Timeout), self._lock(name).acquire(timeout=0):
                # Looked at while the key is locked: a run links what it takes before it lets go of the lock.
                if folder.name == name and name in self._in_use():
                    continue
                found.append(Removed(folder, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())))
                if not dry_run:
                    shutil.rmtree(folder)
        return found

    def _is_copy(self, link: Path) -> bool:
        with contextlib.suppress(ArtifactError):
            return self.shows(link, Artifact.load(link).manifest.key) is not None
        return False

    def _in_use(self) -> set[str]:
        """Names of the folders that some run shows."""
        used = set()
        for manifest in self.build.glob(f"*/*/{MANIFEST}"):
            if manifest.parent.parent != self.root:
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                    used.add(json.loads(manifest.read_text(encoding="utf-8"))["key"][:KEY_LENGTH])
        return used

    def _is_whole(self, key: str) -> bool:
        """Whether the artifact is there, by the hash of every file: who made it may have been another run."""
        with contextlib.suppress(ArtifactError):
            return Artifact.load(self.folder(key), verify=True).manifest.key == key
        return False

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.root / f".{name}.lock")

    @contextlib.contextmanager
    def _locked(self, key: str, *, waiting_for: str) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        lock = self._lock(self.folder(key).name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self._log(f"{waiting_for:<24} waits for another run that is making the same")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def _manifest(folder: Path) -> bytes:
    return (folder / MANIFEST).read_bytes()


def _name_licences(folder: Path, licences: tuple[Licence, ...]) -> bool:
    """Add those to the manifest that it lacks, which are no part of the content; whether there were any.

    The file is replaced, not changed: a copy for another run keeps its own until that run looks again.
    """
    raw = json.loads(_manifest(folder))
    known = licences_in(raw)
    if (every := all_licences(known, licences)) == known:
        return False
    raw["licences"] = [asdict(licence) for licence in every]
    write_text(folder / MANIFEST, json.dumps(raw, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return True


def _show(final: Path, link: Path) -> None:
    """Make ``link`` show ``final``: by a symbolic link, or where there are none, by a folder of hard links."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    temporary = link.with_name(f"{link.name}.tmp-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(os.path.relpath(final.resolve(), link.parent.resolve()), target_is_directory=True)
    except OSError:
        with replacing(link) as copy:
            shutil.copytree(final, copy, copy_function=_link_or_copy, dirs_exist_ok=True)
    else:
        temporary.replace(link)


def _link_or_copy(source: str, target: str) -> None:
    """Artifacts are never changed in place, so that two folders may share a file."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
