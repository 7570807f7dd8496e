"""Builds the inline backend with the machine's C compiler."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "backend.c"
PYTHON_FILES = ("host.py", "triton_python_backend_utils.py")
LIBRARY = "libtriton_python.so"
"""Triton looks for the backend of models that name ``python`` in a file of this name."""
FLAGS = ("-O2", "-shared", "-fPIC")
TIMEOUT_S = 60


class BuildError(Exception):
    """Why there is no inline backend on this machine."""


def build(folder: Path) -> None:
    """Put the backend into an empty folder: compiled (0.1 s), with links to its Python files.

    The folder's parent is nobody else's either: the compiler writes there. The compiler is ``cc``, or what the
    environment variable CC names. Raises :class:`BuildError`; the folder is empty then.
    """
    try:
        if os.statvfs(folder).f_flag & os.ST_NOEXEC:
            raise BuildError(f"nothing may be executed from {folder} (mounted noexec): set TMPDIR to another place")
        # Beside the folder, for what a compiler that was stopped still writes.
        built = folder.with_name("building.so")
        _compile(built)
        for name in PYTHON_FILES:
            (folder / name).symlink_to(HERE / name)
        built.replace(folder / LIBRARY)
    except OSError as exc:
        for name in PYTHON_FILES:
            (folder / name).unlink(missing_ok=True)
        raise BuildError(f"the inline backend could not be written: {exc}") from exc


def _compile(output: Path) -> None:
    compiler = shlex.split(os.environ.get("CC") or "cc")
    named = shlex.join(compiler)
    command = [*compiler, *FLAGS, "-o", str(output), str(SOURCE), "-ldl"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S)
    except FileNotFoundError as exc:
        raise BuildError(f"there is no C compiler {named!r} (Debian, Ubuntu: apt install gcc libc6-dev)") from exc
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise BuildError(f"the C compiler {named!r} could not be run: {exc}") from exc
    except subprocess.CalledProcessError as exc:
        said = exc.stderr.strip().splitlines() or [f"exit code {exc.returncode}"]
        raise BuildError(f"the C compiler {named!r} failed: {said[0]}") from exc
