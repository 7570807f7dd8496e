"""Builds the inline backend with the machine's C compiler, once.

At set-up, by ``python -m serving.inline.build ENVIRONMENT``, or when a server first needs it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
_PARTS = ("batch", "changes", "counts", "python", "queue", "rate")
SOURCES = tuple(HERE / f"{name}.c" for name in ("backend", "request", *_PARTS))
HEADERS = tuple(HERE / f"{name}.h" for name in ("item", "triton", *_PARTS))
PYTHON_FILES = ("host.py", "triton_python_backend_utils.py")
LIBRARY = "libtriton_python.so"
"""Triton looks for the backend of models that name ``python`` in a file of this name."""
CACHE = "bantam-inline"
"""Folder in the serving environment for what was compiled."""
FLAGS = ("-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread")
TIMEOUT_S = 60


class BuildError(Exception):
    """Why there is no inline backend on this machine."""


def build(folder: Path, environment: Path | None = None) -> None:
    """Put the backend into an empty folder: links to the library and to its Python files.

    The library is compiled (0.1 s) if ``environment``, a serving environment, does not hold it yet, and kept there if
    that can be written to; else beside ``folder``, whose parent is nobody else's either. The compiler is ``cc``, or
    what the environment variable CC names. Raises :class:`BuildError`; the folder is empty then.
    """
    kept = environment / CACHE / f"{key()}.so" if environment else None
    try:
        if kept is None or not (kept.is_file() or keep(kept)):
            kept = folder.with_name("inline.so")
            _compile(kept)
        if os.statvfs(kept).f_flag & os.ST_NOEXEC:
            raise BuildError(
                f"nothing may be executed from {kept.parent} (mounted noexec): set TMPDIR to another place"
            )
        (folder / LIBRARY).symlink_to(kept.resolve())
        for name in PYTHON_FILES:
            (folder / name).symlink_to(HERE / name)
    except OSError as exc:
        for path in folder.iterdir():
            path.unlink()
        raise BuildError(f"the inline backend could not be written: {exc}") from exc


def key() -> str:
    """What the library depends on: the sources, how it is compiled, and for which machine."""
    how = repr((_compiler(), FLAGS, platform.machine(), platform.libc_ver())).encode()
    parts = [*(path.read_bytes() for path in (*SOURCES, *HEADERS)), how]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def keep(library: Path) -> bool:
    """Compile the library to a place where it stays; returns whether that place can be written to."""
    # Beside its place first: another start may do the same, and a compiler that was stopped leaves half a file.
    temporary = library.with_name(f"{library.name}.tmp-{os.getpid()}")
    try:
        library.parent.mkdir(exist_ok=True)
        temporary.touch()
        _compile(temporary)
        temporary.replace(library)
    except OSError:
        return False
    finally:
        if temporary.exists():
            temporary.unlink()
    return True


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC") or "cc")


def _compile(output: Path) -> None:
    compiler = _compiler()
    named = shlex.join(compiler)
    command = [*compiler, *FLAGS, "-o", str(output.absolute()), *map(str, SOURCES), "-ldl"]
    try:
        # There, for what a compiler that fails leaves behind.
        subprocess.run(
            command, check=True, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, cwd=output.parent
        )
    except FileNotFoundError as exc:
        raise BuildError(f"there is no C compiler {named!r} (Debian, Ubuntu: apt install gcc libc6-dev)") from exc
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise BuildError(f"the C compiler {named!r} could not be run: {exc}") from exc
    except subprocess.CalledProcessError as exc:
        said = exc.stderr.strip().splitlines() or [f"exit code {exc.returncode}"]
        raise BuildError(f"the C compiler {named!r} failed: {said[0]}") from exc


def main(environment: Path) -> int:
    """Compile into a serving environment; what stands in the way is said, and no failure: models are isolated then."""
    try:
        keep(environment / CACHE / f"{key()}.so")
    except BuildError as exc:
        print(f"set-up: each model will run in a process of its own, somewhat slower: {exc}.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
