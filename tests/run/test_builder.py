"""Runs: what is there is kept, what another run has made is taken from it, what stages share goes in the end."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from bantam.artifact import Artifact
from bantam.run import builder as pipeline
from optimizer.catalog import Checkpoint
from optimizer.config import DistillConfig, LayersConfig
from optimizer.data import Dataset
from optimizer.recipe import Recipe
from tests.optimizer.moods import CONFIG

RECIPE = Recipe(
    name="toy",
    description="toy",
    stages=(
        CONFIG.model_copy(update={"epochs": 0.1}),
        LayersConfig(name="cut", parent="baseline", layers=(1,)),
        DistillConfig(stage="distill", name="recovered", parent="cut", teachers=("baseline",), epochs=0.1),
    ),
)


def run(folder: Path, moods: Dataset, untrained: Checkpoint, recipe: Recipe = RECIPE) -> tuple[Any, list[str]]:
    """The artifacts, and what was said of each stage."""
    said: list[str] = []
    with pipeline.locked(folder):
        artifacts = pipeline.run(recipe, moods, {None: untrained}, folder, log=said.append)
    names = {stage.name for stage in recipe.stages}
    return artifacts, [line for line in said if line.split(maxsplit=1)[0] in names]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, moods: Dataset, untrained: Checkpoint) -> Path:
    folder = tmp_path_factory.mktemp("build") / "first"
    artifacts, said = run(folder, moods, untrained)
    assert [line.split()[1] for line in said if "made in" in line] == ["made"] * 3
    assert artifacts["recovered"].manifest.details["teachers"] == [artifacts["baseline"].digest]
    assert [artifact.name for artifact in artifacts.values()] == ["baseline", "cut", "recovered"]
    return folder


def test_what_is_there_is_kept_measured_or_not(first: Path, moods: Dataset, untrained: Checkpoint) -> None:
    stages = (*RECIPE.stages[:1], RECIPE.stages[1].model_copy(update={"measure": False}), *RECIPE.stages[2:])
    _, said = run(first, moods, untrained, RECIPE.model_copy(update={"stages": stages}))
    assert [line.split()[1] for line in said] == ["kept"] * 3
    assert not (first / pipeline.SHARED).exists()


def test_what_a_kill_right_after_a_stage_left_is_removed(first: Path, moods: Dataset, untrained: Checkpoint) -> None:
    key = Artifact.load(first / "baseline").manifest.key
    left, other = (first / ".resume" / f"baseline-{which[:16]}" for which in (key, "0" * 16))
    for folder in (left, other):
        (folder / "checkpoint-1").mkdir(parents=True)
    run(first, moods, untrained)
    assert not left.exists()
    assert other.exists(), "another configuration goes on from there"
    shutil.rmtree(other)
    run(first, moods, untrained)
    assert not (first / ".resume").exists()


def test_another_run_takes_the_same_stages_and_makes_the_others(
    first: Path, moods: Dataset, untrained: Checkpoint
) -> None:
    changed = RECIPE.stages[2].model_copy(update={"temperature": 2.0})
    recipe = RECIPE.model_copy(update={"stages": (*RECIPE.stages[:2], changed)})
    artifacts, said = run(first.with_name("second"), moods, untrained, recipe)
    assert [line.split(maxsplit=1)[1] for line in said if "taken" in line] == ["taken from first"] * 2
    assert sum("made in" in line for line in said) == 1
    assert artifacts["cut"].digest == Artifact.load(first / "cut", verify=True).digest
    assert artifacts["recovered"].manifest.key != Artifact.load(first / "recovered").manifest.key


def test_a_damaged_artifact_of_another_run_is_not_taken(
    tmp_path: Path, first: Path, moods: Dataset, untrained: Checkpoint
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(first / "baseline", damaged / "baseline")
    config = damaged / "baseline" / "config.json"
    config.write_text(config.read_text().replace("32", "33"))  # of the same length
    recipe = RECIPE.model_copy(update={"stages": RECIPE.stages[:1]})
    _, said = run(tmp_path / "other", moods, untrained, recipe)
    assert [line.split()[1] for line in said if "baseline" in line] == ["made"]
