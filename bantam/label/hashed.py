"""The digest of a file that is being read anyway: a corpus need not be read, or fetched, once more for it."""

from __future__ import annotations

import hashlib
import io
from typing import IO, Any, Literal, cast

from bantam.label.place import Place

PART = 1 << 20


class HashedFile:
    """A file that is hashed while it is read to its end; it may be opened several times, and the last time counts."""

    def __init__(self, place: Place) -> None:
        self._place, self._last = place, cast("_Bytes | None", None)
        self.name, self.suffix, self.suffixes = place.name, place.suffix, place.suffixes

    def __str__(self) -> str:
        return str(self._place)

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        """Its bytes from the start."""
        self._last = _Bytes(self._place.open(mode))
        return io.BufferedReader(self._last, PART)

    def sha256(self) -> str:
        """Of all of it, which is read again if it was not read to its end, or not in order."""
        if self._last is None or not self._last.whole:
            with self._place.open("rb") as file:
                digest = hashlib.sha256()
                while part := file.read(PART):
                    digest.update(part)
                return digest.hexdigest()
        return self._last.digest.hexdigest()


class _Bytes(io.RawIOBase):
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest, self.whole, self._in_order = hashlib.sha256(), False, True

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._in_order = self.whole = False
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        read: int = cast(Any, self._file).readinto(buffer)
        self.digest.update(memoryview(buffer)[:read])
        self.whole = self._in_order and not read
        return read

    def close(self) -> None:
        self._file.close()
        super().close()
