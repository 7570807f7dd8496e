"""A file's text, whatever it is encoded in or compressed with, as far as that is evident."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from bantam.errors import DataError

COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    # Before UTF-16, whose mark it begins with.
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
SAMPLE = 1 << 16


class ReadableFile(Protocol):
    """A path, or whatever else is named as a file and can be opened again and again, such as an object in a bucket.

    Its ``str`` names it in messages.
    """

    @property
    def name(self) -> str:
        """The last part of its path."""

    @property
    def suffix(self) -> str:
        """The last suffix, with its dot."""

    @property
    def suffixes(self) -> Sequence[str]:
        """All of them."""

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        """Its bytes from the start."""


def kind(path: ReadableFile) -> str:
    """The suffix that says the format, in lower case: ``.csv`` of ``data.CSV.gz``."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def stem(path: Path) -> str:
    """The name without the suffixes that say format and compression."""
    inner = path.stem if path.suffix.lower() in COMPRESSED else path.name
    return Path(inner).stem


@contextlib.contextmanager
def text_of(path: ReadableFile) -> Iterator[IO[str]]:
    """Open a file as text; line breaks stay as they are.

    UTF-8, or UTF-16 and UTF-32 where a byte order mark or zero bytes show them. Raises :class:`DataError`, also while
    it is read, if it is none of these, or damaged.
    """
    encoding = _encoding(path)
    try:
        with _open(path) as raw, io.TextIOWrapper(raw, encoding=encoding, newline="") as file:
            yield file
    except UnicodeError as exc:
        raise DataError(_not_decoded(path, encoding)) from exc
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile) as exc:
        raise DataError(f"{path} is damaged or cut off: {exc}.") from exc


@contextlib.contextmanager
def _open(path: ReadableFile) -> Iterator[IO[bytes]]:
    """Its bytes, unpacked."""
    unpack = COMPRESSED.get(path.suffix.lower())
    with path.open("rb") as raw:
        if unpack is None:
            yield raw
        else:
            with unpack(raw, "rb") as unpacked:
                yield unpacked


def _encoding(path: ReadableFile) -> str:
    try:
        with _open(path) as file:
            sample = file.read(SAMPLE)
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile) as exc:
        raise DataError(f"{path} is damaged or cut off: {exc}.") from exc
    for mark, encoding in MARKS.items():
        if sample.startswith(mark):
            return encoding
    if b"\0" not in sample:
        return "utf-8"
    # No text has zero bytes in UTF-8. In UTF-16, read the right way round, what looks like line breaks are some.
    char = "\n" if b"\n" in sample else '"'
    even = sample[: len(sample) // 2 * 2]
    found = {encoding: even.decode(encoding, "replace").count(char) for encoding in ("utf-16-le", "utf-16-be")}
    best = max(found, key=found.__getitem__)
    if found[best] <= sample.count(char.encode()) / 2:
        raise DataError(f"{path} has zero bytes and is no text. Save it as UTF-8.")
    return best


def _not_decoded(path: ReadableFile, encoding: str) -> str:
    if not encoding.startswith("utf-8"):
        return f"{path}: not {encoding.upper()}, which its first bytes promise. Save the file as UTF-8."
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as exc:
                return (
                    f"{path}, line {number}: not UTF-8 (byte 0x{line[exc.start]:02x}). Save the file as UTF-8; if "
                    f"it is Windows' for the West: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8{path.suffix}"
                )
    return f"{path} is not UTF-8. Save the file as UTF-8."
