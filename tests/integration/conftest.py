"""One whole toy run, made once for all tests that look at its results."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bantam.run.prepare import run_name
from bantam.run.request import OptimizeRequest
from tests.plugins import tiny

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Toy:
    """A folder in which ``bantam`` runs, with the command line of a whole run at toy size."""

    folder: Path
    arguments: tuple[str, ...]
    seconds: float = 0.0
    """What its first run took."""

    @property
    def run_folder(self) -> Path:
        """Where its figures are; the name has hashes of the places of checkpoint, data and recipe."""
        model, data, recipe = (str(self.folder / name) for name in ("tiny", "moods.csv", "toy.toml"))
        return self.folder / "build" / run_name(OptimizeRequest(model=model, data=data, recipe=recipe))

    def bantam(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command line in the toy's folder."""
        return subprocess.run(
            [sys.executable, "-m", "bantam", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            capture_output=True,
            text=True,
            timeout=600,
        )


def make_toy(folder: Path) -> Toy:
    """Checkpoint, data and recipe in ``folder``."""
    tiny.write_checkpoint(folder / "tiny")
    tiny.write_data(folder / "moods.csv")
    tiny.write_recipe(folder / "toy.toml")
    return Toy(folder, ("optimize", "./tiny", "--data", "moods.csv", "--recipe", "toy.toml"))


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A toy that has run once, to a published model."""
    toy = make_toy(tmp_path_factory.mktemp("toy"))
    started = time.monotonic()
    done = toy.bantam(*toy.arguments, "--json")
    assert done.returncode == 0, done.stderr
    (toy.folder / "first.json").write_text(done.stdout)
    return replace(toy, seconds=time.monotonic() - started)
