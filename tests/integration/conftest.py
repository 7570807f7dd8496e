"""One whole toy run, made once for all tests that look at its results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bantam.run.prepare import run_name
from bantam.run.request import OptimizeRequest
from tests.plugins import tiny
from tests.plugins.connections import Connections

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Toy:
    """A folder in which ``bantam`` runs, and what in it a whole run at toy size is of."""

    folder: Path
    model: str = "tiny"
    data: str = "moods.csv"
    recipe: str = "toy.toml"
    options: tuple[str, ...] = ()

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command line of a whole run."""
        return ("optimize", f"./{self.model}", "--data", self.data, "--recipe", self.recipe, *self.options)

    @property
    def run_folder(self) -> Path:
        """Where its figures are; the name has hashes of the places of checkpoint, data and recipe."""
        model, data, recipe = (str(self.folder / name) for name in (self.model, self.data, self.recipe))
        return self.folder / "build" / run_name(OptimizeRequest(model=model, data=data, recipe=recipe))

    @property
    def environment(self) -> dict[str, str]:
        """In which ``python -m bantam`` is found from any folder."""
        return {**os.environ, "PYTHONPATH": str(ROOT)}

    def with_recipe(self, name: str, recipe: str) -> Toy:
        """The same, run with this recipe instead, which is written into a file of that name."""
        tiny.write_recipe(self.folder / name, recipe)
        return replace(self, recipe=name)

    def bantam(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        watched: Callable[[int], AbstractContextManager[object]] = nullcontext,
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line in the toy's folder; ``watched`` is entered with the process's id while it runs."""
        command = [sys.executable, "-m", "bantam", *arguments]
        with (
            subprocess.Popen(
                command,
                cwd=self.folder,
                env={**self.environment, **(env or {})},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ) as process,
            watched(process.pid),
        ):
            try:
                output, errors = process.communicate(timeout=600)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(command, process.returncode, output, errors)


def make_toy(folder: Path) -> Toy:
    """Checkpoint, data and recipe in ``folder``."""
    tiny.write_checkpoint(folder / "tiny")
    tiny.write_data(folder / "moods.csv")
    tiny.write_recipe(folder / "toy.toml")
    return Toy(folder)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A toy that has run once, to a published model."""
    toy = make_toy(tmp_path_factory.mktemp("toy"))
    seen = Connections()
    done = toy.bantam(*toy.arguments, "--json", watched=seen.of)
    assert done.returncode == 0, done.stderr
    found = {"looks": seen.looks, "here": sorted(seen.here), "elsewhere": sorted(seen.elsewhere)}
    (toy.folder / "connections.json").write_text(json.dumps(found))
    (toy.folder / "first.json").write_text(done.stdout)
    return toy
