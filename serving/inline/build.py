"""Builds the inline backend with the machine's C compiler."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHON_FILES = ("host.py", "triton_python_backend_utils.py")
LIBRARY = "libtriton_python.so"
"""Triton looks for the backend of a model under this name, and most of its models name ``python``."""
FLAGS = ("-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror")
TIMEOUT_S = 60


class BuildError(Exception):
    """Why there is no inline backend on this machine."""


def build(folder: Path) -> None:
    """Put the backend into an existing folder: compiled (0.1 s), with links to its Python files.

    The compiler is ``cc``, or what the environment variable CC names. Raises :class:`BuildError`.
    """
    compiler = os.environ.get("CC") or "cc"
    command = [compiler, *FLAGS, "-o", str(folder / LIBRARY), str(HERE / "backend.c"), "-ldl"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S)
    except FileNotFoundError as exc:
        raise BuildError(f"there is no C compiler {compiler!r} (Debian, Ubuntu: apt install gcc libc6-dev)") from exc
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise BuildError(f"the C compiler {compiler!r} could not be run: {exc}") from exc
    except subprocess.CalledProcessError as exc:
        said = exc.stderr.strip().splitlines() or [f"exit code {exc.returncode}"]
        raise BuildError(f"the C compiler {compiler!r} failed: {said[0]}") from exc
    for name in PYTHON_FILES:
        (folder / name).symlink_to(HERE / name)
