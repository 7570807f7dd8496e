"""The environments of the peers: made once from pins, made anew if the pins have changed or making was interrupted."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bantam.checkout import site_packages
from benchmarks.bench.contenders import OURS
from benchmarks.bench.process import PeerFailed

ROOT = Path(__file__).resolve().parents[2]
PINS = Path(__file__).with_name("environments")
STAMP = ".made"
TELLING = ("ERROR", "error:")
COMPILED_LATER = r"/(.*/)?(transformers/models|tests?|testing)/"
"""Below site-packages: compiled when they are first imported, half of all, of which a peer imports a handful."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class Environment:
    """An environment that is there."""

    name: str
    python: Path
    digest: str
    """Of its pins."""
    versions: dict[str, str]
    """Of all that is installed in it."""
    seconds: float
    """That it took to make it, also if that was earlier."""


def make(name: str, folder: Path, log: Log, pins: Path | None = None) -> Environment:
    """The environment ``name``: Bantam's own, or ``folder/name`` made from its file of pins, or kept.

    Raises :class:`PeerFailed` with pip's reason if it cannot be made.
    """
    if name == OURS:
        return _described(name, Path(sys.prefix), _digest(ROOT / "constraints.txt"), 0.0)
    pins, home = pins or PINS / f"{name}.txt", folder / name
    if not pins.exists():
        raise PeerFailed("install", f"environments/{name}.txt is not there")
    stamp, digest = home / STAMP, _digest(pins)
    if not (stamp.exists() and stamp.read_text(encoding="ascii").split()[0] == digest):
        log(f"environment {name:<20} is being made")
        shutil.rmtree(home, ignore_errors=True)
        started = time.monotonic()
        _install(home, pins, folder / f"{name}.log")
        stamp.write_text(f"{digest} {time.monotonic() - started:.1f}", encoding="ascii")
    return _described(name, home, digest, float(stamp.read_text(encoding="ascii").split()[1]))


def _install(home: Path, pins: Path, log: Path) -> None:
    """A fresh environment with exactly the pinned versions; ``log`` takes what pip says."""
    home.parent.mkdir(parents=True, exist_ok=True)
    python = str(home / "bin/python")
    pip = [python, "-m", "pip", "install", "--no-compile", "--disable-pip-version-check", "--no-input"]
    steps = [[sys.executable, "-m", "venv", str(home)], [*pip, "-r", str(pins)]]
    torch = [line for line in pins.read_text(encoding="utf-8").splitlines() if line.startswith("torch==")]
    with log.open("w", encoding="utf-8") as file:
        for number, step in enumerate(steps):
            if subprocess.run(step, stdout=file, stderr=subprocess.STDOUT, check=False).returncode:
                raise PeerFailed("install", reason(log))
            if number == 0 and torch and platform.system() == "Linux":
                # As in the Makefile: the CPU build if this index has it; if not, the next step takes what there is.
                subprocess.run([*pip, "--no-deps", f"{torch[0]}+cpu"], stdout=file, stderr=file, check=False)
        site = str(site_packages(home))
        compile_all = [python, "-m", "compileall", "-q", "-x", f"^{re.escape(site)}{COMPILED_LATER}", site]
        # Packages ship templates that are no Python: those that cannot be compiled are left as they are.
        subprocess.run(compile_all, stdout=file, stderr=file, check=False)


def reason(log: Path) -> str:
    """The line of a log that says most: the last that names an error, else the last."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if any(word in line for word in TELLING)]
    return (telling or lines or ["no output"])[-1]


def _described(name: str, home: Path, digest: str, seconds: float) -> Environment:
    site = site_packages(home)
    found = importlib.metadata.distributions(path=[str(site)])
    versions = {each.metadata["Name"].lower(): each.version for each in found}
    return Environment(name, home / "bin/python", digest, dict(sorted(versions.items())), seconds)


def _digest(pins: Path) -> str:
    return hashlib.sha256(pins.read_bytes()).hexdigest()
