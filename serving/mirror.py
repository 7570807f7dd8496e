"""A repository in a bucket, as one in a folder of this machine, which is kept at what is promoted there."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock

from bantam.artifact import MANIFEST, cache_key
from bantam.errors import ArtifactError, BantamError, RepositoryError
from bantam.files import cache_folder, replacing, writing
from serving import repository
from serving.address import is_remote
from serving.pulled import check_digest, check_manifest
from serving.remote import Remote
from serving.repository import ADVICE, Version

LOOK_S = 5.0
"""How often a bucket is asked what is promoted: a small request for each model."""
KEPT = 4
"""Versions of a model: a server may take a moment to leave the one before, and come back to it."""
FETCH_TIMEOUT_S = 1800.0
"""So long another process may take to bring the same model."""


class Mirror:
    """Brings what is promoted at ``remote`` into the repository ``root``; ``digests``: the only manifests to accept."""

    def __init__(self, remote: Remote, root: Path, digests: Sequence[str] = ()) -> None:
        self.root = root
        self._remote = remote
        self._digests = digests
        self._refused: dict[str, int] = {}
        """Versions that may not be served, by model: they are not fetched again."""
        self._said: dict[str, str] = {}

    def start(self, names: Sequence[str], log: Callable[[str], None]) -> None:
        """Bring the models, all if there are no ``names``; where the bucket is out of reach, what is here will do.

        Raises :class:`ArtifactError` for what is refused, :class:`RepositoryError` if there is nothing to serve.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        here = [name for name in names or repository.models(self.root) if self._may_go_on(name)]
        try:
            there = names or self._remote.models()
            if not there:
                raise RepositoryError(f"{self._remote.url} has no models, expected one that is published.")
            for name in there:
                self._bring(name, anew=True)
        except RepositoryError as exc:
            if not here or {*names} - {*here}:
                raise
            log(f"WARNING: serving what was fetched before: {exc}")
        else:
            for name in () if names else {*repository.models(self.root)} - {*there}:
                repository.withdraw(self.root, name)

    def follow(self, names: Sequence[str], stop: threading.Event, log: Callable[[str], None]) -> None:
        """Bring what is promoted meanwhile, until told to stop; what cannot be had is said once."""
        while not stop.wait(LOOK_S):
            for line in self.step(names):
                log(line)

    def step(self, names: Sequence[str]) -> Iterator[str]:
        """Bring what has been promoted since; gives a line for the user about what could not be had."""
        for name in names or repository.models(self.root):
            try:
                self._bring(name)
            except Exception as exc:  # noqa: BLE001 - whatever it is, what is served goes on, and so does the thread
                why = str(exc) if isinstance(exc, BantamError) else f"{type(exc).__name__}: {exc}"
                if self._said.get(name) != why:
                    yield f"{name} stays as it is: {why}"
                self._said[name] = why
            else:
                self._said.pop(name, None)

    def _bring(self, name: str, *, anew: bool = False) -> None:
        """Fetch what is promoted unless it is here; ``anew``: look also whether it is the same still."""
        served = self._remote.served(name)
        if served is None:
            known = ", ".join(self._remote.models()) or "none"
            raise RepositoryError(f"{self._remote.url} has no model {name!r}; expected one of: {known}.")
        folder = self.root / name / str(served.number)
        if served.number == self._refused.get(name):
            return
        self._refused.pop(name, None)
        if not (self._is_same(name, served.number, folder) if anew else self._is_pinned(folder)):
            try:
                self._fetch(name, served.number, folder)
            except ArtifactError:
                self._refused[name] = served.number
                raise
        if repository.promote(Version(name, served.number, folder)).changed:
            repository.prune(self.root, name, KEPT)

    def _fetch(self, name: str, number: int, folder: Path) -> None:
        """Nobody waits for the model's own lock while this takes minutes; who wants to bring the same does."""
        coming = self.root / ".coming" / name
        with (
            writing(folder, RepositoryError, ADVICE),
            FileLock(self.root / f".{name}.coming.lock", timeout=FETCH_TIMEOUT_S),
        ):
            if self._is_same(name, number, folder):
                return
            shutil.rmtree(coming, ignore_errors=True)  # what was killed
            coming.mkdir(parents=True)
            try:
                self._remote.fetch(name, number, coming, self._digests)
                (self.root / name).mkdir(exist_ok=True)
                with repository.locked(self.root, name), replacing(folder) as temporary:
                    temporary.rmdir()
                    coming.rename(temporary)
            finally:
                shutil.rmtree(coming, ignore_errors=True)

    def _is_same(self, name: str, number: int, folder: Path) -> bool:
        """Whether the copy is whole, runs what is installed here, and is what the bucket has under this number."""
        try:
            check_manifest(repository.verified(folder), str(folder))
            return self._is_pinned(folder) and self._remote.has(name, number, folder / MANIFEST)
        except (ArtifactError, RepositoryError):
            return False

    def _is_pinned(self, folder: Path) -> bool:
        """Whether there is a copy, of a manifest that may be served."""
        with contextlib.suppress(ArtifactError):
            if (folder / MANIFEST).is_file():
                check_digest(folder, self._digests, str(folder))
                return True
        return False

    def _may_go_on(self, name: str) -> bool:
        """Whether a copy is here that may be served without asking the bucket."""
        with contextlib.suppress(RepositoryError):  # damaged: what the bucket has takes its place
            version = repository.published(self.root, name)
            return version is not None and self._is_pinned(version.folder)
        return False


@contextlib.contextmanager
def local(
    address: str, names: Sequence[str], digests: Sequence[str], log: Callable[[str], None], *, follow: bool = True
) -> Iterator[Path]:
    """The folder to serve: the repository itself, or a mirror of one in a bucket, that follows it in the block.

    Who asks for other ``digests`` has another mirror: nobody brings there what these forbid.
    """
    if not is_remote(address):
        if digests:
            raise RepositoryError(
                f"Got a digest for {address}; expected one for a bucket's repository. In a folder, nobody but who may "
                "change it can have changed it, and a file that is not as it was published is refused."
            )
        yield Path(address)
        return
    key = cache_key(address=address.rstrip("/"), digests=sorted(digests))[:16]
    mirror = Mirror(Remote(address), cache_folder() / "repositories" / key, digests)
    mirror.start(names, log)
    stop = threading.Event()
    if follow:
        threading.Thread(target=mirror.follow, args=(names, stop, log), daemon=True).start()
    try:
        yield mirror.root
    finally:
        stop.set()
