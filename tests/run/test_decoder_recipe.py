"""The recipe that decoders get if none is named, at toy size: each of its stages makes what the next one takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bantam.run import builder as pipeline
from optimizer.catalog import Checkpoint
from optimizer.config import TrainingConfig
from optimizer.data import Dataset, load_dataset
from optimizer.recipe import Recipe, load_recipe
from tests.optimizer.decoder_tokenizers import write_decoder


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory, moods: Dataset) -> Checkpoint:
    """Its tokenizer has more tokens than the moods need."""
    texts = [*moods.splits["train"].single, *load_dataset("goemotions-ekman").splits["train"].single[:300]]
    return write_decoder(tmp_path_factory.mktemp("decoder") / "model", texts)


def short(recipe: Recipe) -> Recipe:
    """With as little training as there can be."""
    update = {"rows": 32, "epochs": 1.0, "dev_rows": 16}
    stages = (
        stage.model_copy(update=update) if isinstance(stage, TrainingConfig) else stage for stage in recipe.stages
    )
    return recipe.model_copy(update={"stages": tuple(stages)})


def test_every_stage_is_made(tmp_path: Path, moods: Dataset, decoder: Checkpoint, untrained: Checkpoint) -> None:
    recipe = short(load_recipe("decoder"))
    with pipeline.locked(tmp_path / "run"):
        built = pipeline.run(recipe, moods, {None: decoder, "minilm": untrained}, tmp_path / "run", log=lambda _: None)
    assert not built.failed
    made = built.artifacts
    assert list(made) == [stage.name for stage in recipe.stages]
    tokens = made["cut"].manifest.details["tokens"]
    assert tokens["after"] < tokens["before"]
    assert [name for name, artifact in made.items() if not artifact.manifest.is_fp32] == [
        "bf16",
        "int8",
        "int4",
        "student-int8",
    ]
    assert all(made[name].servable for name in ("baseline-onnx-fp32", "int8", "int4", "student-int8"))
    assert [step["stage"] for step in made["student-int8"].manifest.lineage][:2] == ["finetune", "distill"]
    own, teachers = ((made[name].folder / "tokenizer.json").read_bytes() for name in ("student", "baseline"))
    assert own != teachers


def test_random_weights_are_planned_without_training(tmp_path: Path, moods: Dataset, decoder: Checkpoint) -> None:
    recipe = load_recipe("decoder").planned()
    random = replace(decoder, random_weights=True, digest="random")
    with pipeline.locked(tmp_path / "run"):
        built = pipeline.run(recipe, moods, {None: random}, tmp_path / "run", log=lambda _: None)
    assert not built.failed
    assert all(artifact.manifest.random_weights for artifact in built.artifacts.values())
    assert built.artifacts["baseline"].manifest.details["trained"] is False
    assert built.artifacts["int4"].servable
