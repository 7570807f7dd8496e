"""A file on this machine, or at an address such as ``s3://bucket/texts.csv``; what is written is whole or absent."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, Protocol

from bantam.errors import DataError
from bantam.files import replacing_file, writing
from optimizer.data.text_file import ReadableFile
from serving.address import is_remote
from serving.remote import asking, file_system
from serving.version_folder import sync

ADVICE = "Expected a path that can be written to."


class Place(ReadableFile, Protocol):
    """Where something is read from or written to. Its ``str`` is what the user typed.

    All but ``open`` raise :class:`DataError` or :class:`RepositoryError` for what cannot be done.
    """

    def exists(self) -> bool:
        """Whether there is a file."""

    def beside(self, ending: str) -> Place:
        """The one whose path ends so in addition."""

    def inside(self, name: str) -> Place:
        """A file in this folder."""

    def writing(self) -> contextlib.AbstractContextManager[IO[bytes]]:
        """A file to write to. It takes its place if the block ends well, and is on the disk then."""

    def remove(self) -> None:
        """Remove the file, or the folder with all that is in it; nothing if it is not there."""

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """What goes wrong in the block, in which it is read, in the user's words."""


def place(address: str) -> Place:
    """The file at a path or an address; :class:`RepositoryError` if it is an address of no known kind."""
    return _There(address) if is_remote(address) else _Here(Path(address).expanduser())


class _Here:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.name, self.suffix, self.suffixes = path.name, path.suffix, path.suffixes

    def __str__(self) -> str:
        return str(self.path)

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        return self.path.open(mode)

    def exists(self) -> bool:
        return self.path.exists()

    def beside(self, ending: str) -> Place:
        return _Here(self.path.with_name(self.path.name + ending))

    def inside(self, name: str) -> Place:
        return _Here(self.path / name)

    @contextlib.contextmanager
    def writing(self) -> Iterator[IO[bytes]]:
        with writing(self.path, DataError, ADVICE):
            with replacing_file(self.path) as temporary:
                with temporary.open("wb") as file:
                    yield file
                sync(temporary)
            sync(self.path.parent)

    def remove(self) -> None:
        with writing(self.path, DataError, ADVICE):
            if self.path.is_dir():
                shutil.rmtree(self.path)
            else:
                self.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise DataError(f"{self.path} cannot be read ({exc.strerror or exc}). Expected a file of texts.") from exc


class _There:
    def __init__(self, url: str) -> None:
        path = PurePosixPath(url)
        self.url, self.name, self.suffix, self.suffixes = url, path.name, path.suffix, path.suffixes
        self._fs, self._path = file_system(url, use_listings_cache=False)

    def __str__(self) -> str:
        return self.url

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        with asking(self.url):
            opened: IO[bytes] = self._fs.open(self._path, mode)
            return opened

    def exists(self) -> bool:
        with asking(self.url):
            return bool(self._fs.exists(self._path))

    def beside(self, ending: str) -> Place:
        return _There(self.url + ending)

    def inside(self, name: str) -> Place:
        return _There(f"{self.url}/{name}")

    @contextlib.contextmanager
    def writing(self) -> Iterator[IO[bytes]]:
        with asking(self.url):
            # Not its own context manager, which would upload half of it where the block fails.
            file: Any = self._fs.open(self._path, "wb", autocommit=False)
            try:
                yield file
                file.close()
                file.commit()
            except BaseException:
                with contextlib.suppress(Exception):
                    file.discard()
                raise

    def remove(self) -> None:
        with asking(self.url), contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._path, recursive=True)

    def reading(self) -> contextlib.AbstractContextManager[None]:
        return asking(self.url)
