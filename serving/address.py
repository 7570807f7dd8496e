"""Where a model repository is: in a folder, or in a bucket. Either does the same with its versions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from serving import listing, repository
from serving.listing import Listed
from serving.triton_config import ServedVersion

if TYPE_CHECKING:
    from serving.remote import Remote


def is_remote(repository: str) -> bool:
    """Whether it is an address such as ``s3://bucket/models``, in place of a folder."""
    return "://" in repository


class Folder:
    """The repository in a folder, as :class:`serving.remote.Remote` is one in a bucket."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def rollback(self, name: str) -> ServedVersion:
        """Make the version served that was before; returns what is now, and was. What is served stays on errors."""
        left = repository.published(self._root, name)
        return ServedVersion(repository.rollback(self._root, name).number, left.number if left else None)

    def listed(self, name: str) -> Iterator[Listed]:
        """All versions of a model, the newest first."""
        return listing.listed(self._root, name)

    def prune(self, name: str, keep: int) -> list[int]:
        """Remove old versions: see :func:`serving.repository.prune`."""
        return repository.prune(self._root, name, keep)


def repository_at(address: str) -> Folder | Remote:
    """The repository there. Raises :class:`RepositoryError` for an address of a kind that is not known."""
    if not is_remote(address):
        return Folder(Path(address))
    from serving.remote import Remote  # what it brings is of no use to a folder, and takes time to import

    return Remote(address)
