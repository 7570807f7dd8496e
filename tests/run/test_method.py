"""A method of quantization that is added from outside: one config, one function, one entry; and it is in recipes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bantam.artifact import Artifact, Compute
from bantam.errors import RecipeError
from bantam.run import builder
from bantam.run.score import score
from optimizer.catalog import Checkpoint
from optimizer.config import QuantizeConfig
from optimizer.data import Dataset
from optimizer.evaluate import quality
from optimizer.quantize import METHODS
from optimizer.quantize.method import Batches, Method, Quantized
from optimizer.recipe import load_recipe
from optimizer.stage import RunContext
from tests.optimizer.moods import context_in
from tests.plugins import tiny


class RowsConfig(QuantizeConfig):
    method: Literal["hf-rows"] = "hf-rows"
    levels: int = 127


def write(parent: Artifact, config: RowsConfig, context: RunContext, batches: Batches) -> Quantized:
    weights = load_file(parent.folder / "model.safetensors")
    for name, weight in weights.items():
        if weight.ndim == 2:
            step = np.maximum(np.abs(weight).max(axis=1, keepdims=True), 1e-9) / config.levels
            weights[name] = (np.rint(weight / step) * step).astype(weight.dtype)
    save_file(weights, context.folder / "model.safetensors", {"format": "pt"})
    shutil.copy(parent.folder / "config.json", context.folder)
    return Quantized(Compute(), {"levels": config.levels})


ROWS = Method(RowsConfig, accepts=frozenset({"hf"}), makes="hf", write=write, final=False)
RECIPE = """
[[stages]]
stage = "quantize"
name = "rounded"
parent = "baseline"
method = "hf-rows"

[[stages]]
stage = "export"
name = "rounded-onnx"
parent = "rounded"
format = "onnx"
"""


def test_a_method_from_outside_is_quantized_exported_and_scored(
    tmp_path: Path, moods: Dataset, untrained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "hf-rows", ROWS)
    path = tiny.write_recipe(tmp_path / "mine.toml")
    path.write_text(path.read_text(encoding="utf-8") + RECIPE, encoding="utf-8")
    stages = tuple(stage for stage in load_recipe(str(path)).stages if stage.name in ("baseline", *NAMES))
    recipe = load_recipe(str(path)).model_copy(update={"stages": stages})
    made = builder.run(recipe, moods, {None: untrained}, tmp_path / "run", log=lambda _: None).artifacts
    rounded, exported = (made[name].manifest for name in NAMES)
    assert rounded.details == {"levels": 127}
    assert 0 < rounded.metrics["logits"]["mean_difference"] < 0.1 * rounded.metrics["logits"]["reference_std"]
    assert made["rounded"].size_bytes > 0.9 * made["baseline"].size_bytes
    assert 0 <= exported.metrics["parity"]["max_difference"] <= exported.metrics["parity"]["tolerance"]
    assert [step["stage"] for step in exported.lineage] == ["finetune", "quantize", "export"]
    assert exported.lineage[-1]["config"]["parent"] == made["rounded"].digest
    context = context_in(tmp_path, moods, untrained)
    scored = score(made["rounded-onnx"], moods, context, recipe.serving)
    assert quality(scored.dev, moods.splits["dev"].targets, scored.thresholds)["macro_f1"] > 0.9


NAMES = ("rounded", "rounded-onnx")


def test_its_keys_are_known_and_others_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny.write_recipe(tmp_path / "mine.toml")
    text = path.read_text(encoding="utf-8") + RECIPE
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"'rounded': method = 'hf-rows', expected one of onnx-dynamic-int8,"):
        load_recipe(str(path))
    monkeypatch.setitem(METHODS, "hf-rows", ROWS)
    path.write_text(text.replace('method = "hf-rows"', 'method = "hf-rows"\nproducts = "int8"'), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"hf-rows has no key 'products'. Known: .*levels"):
        load_recipe(str(path))
    path.write_text(text.replace('parent = "rounded"', 'parent = "onnx-fp32"'), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"'rounded-onnx' .export. starts from 'onnx-fp32', whose format is onnx"):
        load_recipe(str(path))
