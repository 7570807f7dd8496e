"""Files and folders that are whole or absent, whenever the process is killed; and a full disk in words.

Standard library only: the optimizer, the server's side and the commands all write through here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from bantam.errors import BantamError, DiskFullError

DISK_FULL_WORDS = ("No space left on device", "inline_container.cc")
"""What libraries without error codes say: safetensors and protobuf pass the system's words on; PyTorch's own file
writer only sees that it wrote less than it should."""


@contextlib.contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """Give an empty folder beside ``final`` to write into; put it in ``final``'s place if the block ends well.

    ``final`` is replaced as a whole; if the block raises, the half-written folder is removed and ``final`` untouched.
    """
    temporary = _beside(final)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if final.exists():
            # A folder cannot be renamed onto another; killed between the two steps, the stage simply runs again.
            outdated = final.with_name(f"{final.name}.tmp-old-{os.getpid()}")
            shutil.rmtree(outdated, ignore_errors=True)
            final.rename(outdated)
            temporary.rename(final)
            shutil.rmtree(outdated, ignore_errors=True)
        else:
            temporary.rename(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextlib.contextmanager
def replacing_file(final: Path) -> Iterator[Path]:
    """Give a path beside ``final`` to write a file to; put it in ``final``'s place if the block ends well.

    The folder is made if it is not there.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(final)
    try:
        yield temporary
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text (UTF-8, line feeds as they are), whole or not at all; the folder is made if it is not there."""
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def cache_folder() -> Path:
    """Where Bantam keeps what it downloads or builds: $BANTAM_CACHE, or bantam in the user's cache folder."""
    if os.environ.get("BANTAM_CACHE"):
        return Path(os.environ["BANTAM_CACHE"]).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bantam"


def sweep(folder: Path) -> list[Path]:
    """Remove what killed processes left half-written directly in ``folder``; returns what was removed.

    The caller holds the folder's lock, so that nothing found is in use.
    """
    left = [path for path in folder.glob("*.tmp-*") if path.is_dir() or path.is_file() or path.is_symlink()]
    for path in left:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return left


@contextlib.contextmanager
def writing(target: Path, otherwise: type[BantamError] | None = None, advice: str = "") -> Iterator[None]:
    """Say where the disk was full (:class:`DiskFullError`) while the block wrote to ``target``.

    With ``otherwise``, any other error of the file system becomes this one, with ``advice`` behind it.
    """
    try:
        yield
    except Exception as exc:
        if is_disk_full(exc):
            where = next(path for path in [target, *target.absolute().parents] if path.exists())
            raise DiskFullError(
                f"No space left while writing {target}: {shutil.disk_usage(where).free / 1e6:.0f} MB free. What was "
                "there before is untouched. Free some space and run the same command again: it goes on from here."
            ) from exc
        if otherwise is None or not isinstance(exc, OSError):
            raise
        raise otherwise(f"{target} cannot be written ({exc.strerror or exc}). {advice}".rstrip()) from exc


def is_disk_full(exc: BaseException | None) -> bool:
    """Whether no space was left, also behind a library's own exception."""
    while exc is not None:
        if isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(exc) for words in DISK_FULL_WORDS):
            return True
        exc = exc.__cause__ or exc.__context__
    return False


def _beside(final: Path) -> Path:
    return final.with_name(f"{final.name}.tmp-{os.getpid()}")
