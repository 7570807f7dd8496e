"""docs/recipes.md: every key of a recipe and its default, and an example that can be read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from optimizer.config import (
    AdapterConfig,
    Augmentation,
    Config,
    FinetuneConfig,
    LossWeights,
    StageConfig,
    TrainingConfig,
)
from optimizer.kinds import config_classes, read_stage
from optimizer.recipe import MeasureConfig, SearchConfig, ServingConfig, load_recipe

DOCS = Path(__file__).parents[2] / "docs/recipes.md"


def in_the_docs(heading: str) -> dict[str, str]:
    """Key -> default, as the table under a heading of docs/recipes.md says."""
    text = DOCS.read_text(encoding="utf-8")
    section = re.split(r"\n#+ ", text.partition(f"# {heading}\n")[2])[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE))


def told(kind: type[Config], base: type[Config] | None = None) -> dict[str, str]:
    """The same of a config, without the keys of its base and the one that names the method."""
    known = {"method", *base.model_fields} if base else set()
    return {
        name: "required" if field.is_required() else told_value(field.default)
        for name, field in kind.model_fields.items()
        if name not in known
    }


def told_value(value: Any) -> str:
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return str(value).lower()
    return "{}" if isinstance(value, LossWeights) else "[]" if value == () else str(value)


def test_the_docs_have_every_key_and_its_default() -> None:
    assert in_the_docs("Every stage") == told(StageConfig)
    assert in_the_docs("finetune and distill") == told(TrainingConfig, StageConfig)
    assert in_the_docs("finetune") == told(FinetuneConfig, TrainingConfig)
    assert in_the_docs("adapter") == told(AdapterConfig)
    assert in_the_docs("losses") == told(LossWeights)
    assert in_the_docs("augmentation") == told(Augmentation)
    assert in_the_docs("measure") == told(MeasureConfig)
    assert in_the_docs("search") == told(SearchConfig)
    assert in_the_docs("serving") == told(ServingConfig)
    for stage, methods in config_classes().items():
        for name, kind in methods.items():
            if stage != "finetune":
                base = TrainingConfig if stage == "distill" else StageConfig
                assert in_the_docs(f"{stage} {name}".strip()) == told(kind, base), name


def test_the_example_in_the_docs_is_a_recipe(tmp_path: Path) -> None:
    text = DOCS.read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "mine.toml"
    path.write_text(example, encoding="utf-8")
    recipe = load_recipe(str(path))
    assert [stage.name for stage in recipe.stages][3:] == ["half-onnx", "half-int8", "third-onnx", "third-int8"]
    assert recipe.measure.rounds == 3


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            {"method": "onnx-dynamic-int8", "seed": 1, "calibration_rows": 9},
            "calibration_rows, seed: .* without smooth",
        ),
        ({"method": "onnx-int4", "calibration_rows": 9}, "calibration_rows: got without outliers"),
        ({"method": "openvino-weights", "seed": 1}, "seed: got without awq or scale_estimation or gptq"),
        (
            {"method": "onnx-mixed", "max_mb": 5.0, "choices": ["fp16"], "products": "int8"},
            "products: got without int4 or int8 among choices",
        ),
    ],
    ids=lambda value: value["method"] if isinstance(value, dict) else "",
)
def test_keys_that_would_do_nothing_are_refused(keys: dict[str, Any], expected: str) -> None:
    stage = {"stage": "quantize", "name": "small"}
    with pytest.raises(ValueError, match=expected):
        read_stage({**stage, **keys})
    # A run writes its recipe down with all keys, and that can be read again.
    needed = {key: value for key, value in keys.items() if key in ("method", "max_mb", "choices")}
    read = read_stage({**stage, **needed})
    assert read_stage(read.model_dump(mode="json", exclude_none=True)) == read
