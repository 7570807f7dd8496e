"""Packages that a machine without an index lacks, brought as wheels, large ones in pieces. Standard library only."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

PIECE = re.compile(r"(?P<wheel>.+\.whl)\.(?:part)?(?P<number>\w+)")
"""What ``split -b 60M onnxruntime_gpu-...whl onnxruntime_gpu-...whl.`` writes: ``NAME.whl.aa``, ``NAME.whl.ab``."""


def joined(folder: Path, into: Path) -> list[Path]:
    """The wheels in a folder, those in pieces put together in the folder ``into``, sorted.

    Raises ``ValueError`` if there is none.
    """
    pieces: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if found := PIECE.fullmatch(path.name):
            pieces[found["wheel"]].append(path)
    for name, parts in pieces.items():
        with (into / name).open("wb") as wheel:
            for part in parts:
                wheel.write(part.read_bytes())
    wheels = sorted([*folder.glob("*.whl"), *(into / name for name in pieces)])
    if not wheels:
        raise ValueError(f"{folder} has no wheels, expected NAME.whl, or pieces NAME.whl.aa, NAME.whl.ab of one.")
    return wheels


def install(wheels: list[Path], target: Path) -> None:
    """Install wheels beside what is there, into a folder that is to come first on the path; nothing is fetched.

    Raises ``subprocess.CalledProcessError``.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", f"--target={target}"]
    subprocess.run([*command, *map(str, wheels)], check=True)
