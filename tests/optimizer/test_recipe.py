"""Recipes: what is shipped loads, what is wrong is refused with the known choices."""

from pathlib import Path

import pytest
import tomli_w
from pydantic import ValidationError

from bantam.errors import RecipeError
from optimizer.config import AdoptConfig, DistillConfig, FinetuneConfig, LossWeights
from optimizer.kinds import config_classes
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


STATIC = '[[stages]]\nstage = "quantize"\nname = "int8"\nparent = "onnx"\nmethod = "openvino-static-int8"\n'
CUT = '[[stages]]\nstage = "prune"\nname = "cut"\nparent = "baseline"\nmethod = "vocabulary"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RECIPE.replace("epochs", "epoch"), r"stage 'baseline': finetune has no key 'epoch'. Known: .*epochs"),
        (
            RECIPE.replace('"export"', '"exprot"'),
            r"stage 'onnx': stage = 'exprot', expected one of adopt, finetune, distill, prune, export, quantize",
        ),
        (
            RECIPE.replace('parent = "baseline"', 'parent = "nobody"'),
            r"'onnx' builds on 'nobody', which no stage before it",
        ),
        (
            RECIPE.replace('parent = "baseline"\n', ""),
            r"'onnx' .export. has parent = None, expected the name of a stage",
        ),
        (RECIPE.replace("epochs = 3", 'parent = "x"'), r"'baseline' .finetune. has parent = 'x', expected none"),
        (RECIPE + '[[stages]]\nstage = "finetune"\nname = "baseline"', r"two stages are named 'baseline'"),
        (RECIPE.replace('name = "onnx"', 'name = "candidates"'), r"no stage can be named 'candidates'"),
        (RECIPE.replace('name = "onnx"', 'name = "scores-onnx"'), r"no stage can be named 'scores-onnx'"),
        (
            RECIPE.replace("quick.baseline", "quick.nobody"),
            r"sets 'nobody', which is no stage of it. Known: baseline, onnx",
        ),
        (RECIPE.replace("epochs = 3", "epochs = -1"), r"stage 'baseline': epochs: Input should be greater than 0"),
        ("stages = [", r"cannot be read as TOML"),
        ('description = "no stages"', r"stages: Field required"),
        ('description = "x"\n[stages]\nname = "x"', r"'stages' is no list of tables. .* begin with \[\[stages\]\]"),
        # Keys of another method than the one that is asked for.
        (
            RECIPE + STATIC + 'products = "int8"',
            r"openvino-static-int8 has no key 'products'. Known: .*calibration_rows",
        ),
        (RECIPE + STATIC + "block_size = 32", r"openvino-static-int8 has no key 'block_size'"),
        (
            RECIPE + STATIC.replace("openvino-static", "openvino-int4"),
            r"method = 'openvino-int4-int8', expected one of",
        ),
        (RECIPE + CUT + "ratio = 0.5", r"stage 'cut': prune vocabulary has no key 'ratio'. Known: .*tolerance"),
        (RECIPE + CUT.replace("vocabulary", "layers"), r"stage 'cut': layers: Field required"),
        (RECIPE + CUT.replace("vocabulary", "2:4") + "ratio = 0.5", r"prune 2:4 has no key 'ratio'"),
        # What a stage makes has to be what the next one starts from.
        (
            RECIPE + STATIC.replace('"onnx"', '"baseline"'),
            r"'int8' .quantize. starts from 'baseline', whose format is pytorch; expected onnx or openvino in fp32",
        ),
        (RECIPE + CUT.replace('"baseline"', '"onnx"'), r"'cut' .prune. starts from 'onnx', whose format is onnx"),
        (
            RECIPE + STATIC + STATIC.replace('"onnx"', '"int8"').replace('name = "int8"', 'name = "again"'),
            r"'again' .quantize. starts from 'int8', whose format is openvino in fewer bits than fp32",
        ),
        (
            RECIPE + CUT.replace("prune", "distill").replace('method = "vocabulary"', 'teachers = ["onnx"]'),
            r"'cut' .distill. starts from 'onnx', whose format is onnx; expected pytorch in fp32",
        ),
        (
            RECIPE + "[defaults.distil]\nepochs = 1",
            r"\[defaults.distil\] is of no stage or method. Known: adopt, finetune, dis",
        ),
        (RECIPE + '[[matrix]]\nmodels = ["baseline"]', r"methods: Field required"),
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


TREE = """
description = "a test"
[defaults.distill]
parent = "baseline"
layers = 3
[defaults.quantize]
measure = false
[defaults.openvino-static-int8]
calibration_rows = 50
[[stages]]
stage = "finetune"
name = "baseline"
[[stages]]
stage = "distill"
name = "small"
[[stages]]
stage = "distill"
name = "smaller"
layers = 2
[[matrix]]
models = ["small", "smaller"]
methods = [
  { name = "onnx", stage = "export", format = "onnx" },
  { name = "int8", parent = "onnx", stage = "quantize", method = "openvino-static-int8" },
]
[profiles.quick]
defaults.distill = { epochs = 0.5 }
small-int8 = { measure = true, calibration_rows = 60 }
[profiles.full]
stages = [{ stage = "distill", name = "more", layers = 1 }]
matrix = [{ models = ["more"], methods = [{ name = "openvino", stage = "export", format = "openvino" }] }]
"""


def test_defaults_and_a_matrix_are_written_out(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, TREE))
    stages = {stage.name: stage for stage in recipe.stages}
    assert list(stages) == [
        *("baseline", "small", "smaller"),
        *("small-onnx", "small-int8", "smaller-onnx", "smaller-int8"),
    ]
    small, smaller = stages["small"], stages["smaller"]
    assert isinstance(small, DistillConfig)
    assert isinstance(smaller, DistillConfig)
    assert (small.layers, smaller.layers, small.parent, small.epochs) == (3, 2, "baseline", 0.5)
    assert (stages["small-onnx"].parent, stages["small-int8"].parent) == ("small", "small-onnx")
    assert [stages[name].measure for name in ("small-onnx", "small-int8", "smaller-int8")] == [True, True, False]
    assert [stages[f"{name}-int8"].model_dump()["calibration_rows"] for name in ("small", "smaller")] == [60, 50]


def test_a_profile_adds_stages_of_its_own(tmp_path: Path) -> None:
    full = [stage.name for stage in load_recipe(write(tmp_path, TREE), "full").stages]
    quick = [stage.name for stage in load_recipe(write(tmp_path, TREE)).stages]
    assert full == [*quick[:3], "more", *quick[3:], "more-openvino"]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", known_recipes())
def test_what_a_run_writes_down_is_the_same_recipe(name: str, profile: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, profile)
    text = tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))
    again = load_recipe(write(tmp_path, text), "full")
    assert again == recipe
    assert [type(stage) for stage in again.stages] == [type(stage) for stage in recipe.stages]


def test_an_export_is_added_where_a_recipe_has_none(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, RECIPE))
    assert recipe.exporting("baseline") is recipe
    none = load_recipe(write(tmp_path, RECIPE.replace('format = "onnx"', 'format = "openvino"'))).exporting("baseline")
    assert none.export_of("baseline") == none.stages[-1].name == "baseline-onnx-fp32"
    assert not none.stages[-1].measure


def test_random_weights_are_not_trained_and_teach_nothing() -> None:
    recipe = load_recipe("decoder")
    planned = recipe.planned()
    assert [stage.name for stage in planned.stages] == ["baseline", "bf16", "cut", "cut-onnx-fp32", "int8", "int4"]
    assert (planned.measure.dev_rows, planned.measure.test_rows) == (planned.measure.texts,) * 2
    assert isinstance(planned.stages[0], AdoptConfig)
    assert (recipe.models, planned.models) == (("minilm",), ())
    assert [stage.name for stage in load_recipe("small").planned().stages][:3] == ["baseline", "distilled", "both-cut"]


def test_a_method_is_known_by_the_name_that_its_config_has() -> None:
    for stage, methods in config_classes().items():
        for name, kind in methods.items():
            assert kind.model_fields["stage"].default == stage
            assert not name or kind.model_fields["method"].default == name


def test_the_study_has_a_row_for_each_loss_and_kind_of_student() -> None:
    stages = [stage for stage in load_recipe("study", "full").stages if isinstance(stage, DistillConfig)]
    alone = {name for stage in stages for name, weight in stage.losses if weight and name not in ("soft", "hard")}
    assert alone == {*LossWeights.model_fields} - {"soft", "hard"}
    used = {name for stage in stages for name in stage.model_fields_set}
    assert {"teachers", "heads", "neurons", "hidden", "choose", "layer_map", "augmentation", "sparsity"} <= used
