"""A repository in a bucket, as one in a folder of this machine, which is kept at what is promoted there."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bantam.artifact import MANIFEST, cache_key, sha256
from bantam.errors import ArtifactError, BantamError, RepositoryError
from bantam.files import cache_folder, replacing
from serving import repository
from serving.pulled import check_manifest
from serving.remote import Remote, is_remote
from serving.repository import Version

LOOK_S = 5.0
"""How often a bucket is asked what is promoted: a small request for each model."""


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
            for name in names or self._remote.models():
                self._bring(name, anew=True)
        except RepositoryError as exc:
            if not here or {*names} - {*here}:
                raise
            log(f"WARNING: serving what was fetched before: {exc}")

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
            except BantamError as exc:  # what is served goes on
                if self._said.get(name) != str(exc):
                    yield f"{name} stays as it is: {exc}"
                self._said[name] = str(exc)
            else:
                self._said.pop(name, None)

    def _bring(self, name: str, *, anew: bool = False) -> None:
        """Fetch what is promoted unless it is here; ``anew``: look also whether it is the same still."""
        served = self._remote.served(name)
        if served is None:
            raise RepositoryError(
                f"{self._remote.url} has no model {name!r}; expected one of: {', '.join(self._remote.models())}."
            )
        folder = self.root / name / str(served.number)
        if served.number == self._refused.get(name):
            return
        if not self._is_pinned(folder) or (anew and not self._is_same(name, served.number, folder)):
            try:
                with repository.locked(self.root, name), replacing(folder) as temporary:
                    self._remote.fetch(name, served.number, temporary, self._digests)
            except ArtifactError:
                self._refused[name] = served.number
                raise
        if repository.promote(Version(name, served.number, folder)).changed:
            repository.prune(self.root, name)

    def _is_same(self, name: str, number: int, folder: Path) -> bool:
        """Whether the copy is whole, runs what is installed here, and is what the bucket has under this number."""
        try:
            check_manifest(repository.verified(folder), str(folder))
            return self._remote.has(name, number, folder / MANIFEST)
        except (ArtifactError, RepositoryError):
            return False

    def _is_pinned(self, folder: Path) -> bool:
        """Whether there is a copy, of a manifest that may be served."""
        manifest = folder / MANIFEST
        return manifest.is_file() and (not self._digests or sha256(manifest) in self._digests)

    def _may_go_on(self, name: str) -> bool:
        """Whether a copy is here that may be served without asking the bucket."""
        version = repository.published(self.root, name)
        return version is not None and self._is_pinned(version.folder)


@contextlib.contextmanager
def local(address: str, names: Sequence[str], digests: Sequence[str], log: Callable[[str], None]) -> Iterator[Path]:
    """The folder to serve: the repository itself, or in the block a mirror of one in a bucket that follows it."""
    if not is_remote(address):
        if digests:
            raise RepositoryError(
                f"Got a digest for {address}; expected one for a bucket's repository. In a folder, nobody but who may "
                "change it can have changed it, and a file that is not as it was published is refused."
            )
        yield Path(address)
        return
    mirror = Mirror(Remote(address), cache_folder() / "repositories" / cache_key(address=address)[:16], digests)
    mirror.start(names, log)
    stop = threading.Event()
    thread = threading.Thread(target=mirror.follow, args=(names, stop, log), daemon=True)
    thread.start()
    try:
        yield mirror.root
    finally:
        stop.set()
