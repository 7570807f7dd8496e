"""Recipes: what is shipped loads, what is wrong is refused with the known choices."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from bantam.errors import RecipeError
from optimizer.config import FinetuneConfig
from optimizer.recipe import PROFILES, known_recipes, load_recipe

RECIPE = """
description = "a test"
[[stages]]
stage = "finetune"
name = "baseline"
epochs = 3
[[stages]]
stage = "export"
name = "onnx"
parent = "baseline"
format = "onnx"
[profiles.quick.baseline]
rows = 10
[profiles.quick.measure]
rounds = 2
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", known_recipes())
def test_every_shipped_recipe_exports_its_baseline(name: str) -> None:
    recipe = load_recipe(name)
    (export,) = (stage for stage in recipe.stages if stage.name == recipe.export_of("baseline"))
    assert (export.stage, export.parent) == ("export", "baseline")


def test_an_export_of_something_else_is_not_the_baseline_s(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, RECIPE)).export_of("baseline") == "onnx"
    assert load_recipe(write(tmp_path, RECIPE)).export_of("onnx") is None
    other = load_recipe(write(tmp_path, RECIPE.replace('format = "onnx"', 'format = "openvino"')))
    assert other.export_of("baseline") is None


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", known_recipes())
def test_every_shipped_recipe_loads_and_measures_a_baseline(name: str, profile: str) -> None:
    recipe = load_recipe(name, profile)
    assert recipe.name == name
    assert recipe.stages[0].name == "baseline"
    assert recipe.stages[0].measure


def test_a_profile_overrides_its_stage_and_measure_only(tmp_path: Path) -> None:
    path = write(tmp_path, RECIPE)
    quick, full = load_recipe(path, "quick"), load_recipe(path, "full")
    assert isinstance(quick.stages[0], FinetuneConfig)
    assert isinstance(full.stages[0], FinetuneConfig)
    assert (quick.stages[0].rows, quick.measure.rounds) == (10, 2)
    assert full.stages[0].rows is None
    assert quick.stages[1] == full.stages[1]


def test_a_models_defaults_fill_in_only_what_the_recipe_leaves_open(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, RECIPE)).suited_to({"epochs": 9.0, "batch_size": 8})
    assert isinstance(recipe.stages[0], FinetuneConfig)
    assert (recipe.stages[0].epochs, recipe.stages[0].batch_size) == (3, 8)


def test_recipes_are_frozen() -> None:
    with pytest.raises(ValidationError):
        load_recipe("int8").max_drop_points = 5.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RECIPE.replace("epochs", "epoch"), r"stages.0.finetune.epoch: Extra inputs are not permitted"),
        (
            RECIPE.replace('"export"', '"exprot"'),
            r"does not match any of the expected tags: 'finetune', 'distill', 'prune', 'export', 'quantize'",
        ),
        (
            RECIPE.replace('parent = "baseline"', 'parent = "nobody"'),
            r"'onnx' builds on 'nobody', which no stage before it",
        ),
        (RECIPE + '[[stages]]\nstage = "finetune"\nname = "baseline"', r"two stages are named 'baseline'"),
        (RECIPE.replace('name = "onnx"', 'name = "candidates"'), r"no stage can be named 'candidates'"),
        (RECIPE.replace('name = "onnx"', 'name = "scores-onnx"'), r"no stage can be named 'scores-onnx'"),
        (
            RECIPE.replace("quick.baseline", "quick.nobody"),
            r"sets 'nobody', which is no stage of it. Known: baseline, onnx",
        ),
        (RECIPE.replace("epochs = 3", "epochs = -1"), r"stages.0.finetune.epochs: Input should be greater than 0"),
        ("stages = [", r"cannot be read as TOML"),
        ('description = "no stages"', r"stages: Field required"),
    ],
)
def test_a_wrong_recipe_is_refused_with_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, text))


def test_unknown_names_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"Unknown recipe 'int9'. Known: .*int8"):
        load_recipe("int9")
    with pytest.raises(RecipeError, match=r"Unknown profile 'slow'. Known: quick, full"):
        load_recipe("int8", "slow")
    with pytest.raises(RecipeError, match=r"Unknown recipe .*none.toml"):
        load_recipe(str(tmp_path / "none.toml"))


@pytest.mark.parametrize("profile", PROFILES)
def test_small_is_made_of_stages_of_the_study(profile: str) -> None:
    study, small = (
        {stage.name: stage.model_dump(exclude={"measure"}) for stage in load_recipe(name, profile).stages}
        for name in ("study", "small")
    )
    assert small == {name: study[name] for name in small}
