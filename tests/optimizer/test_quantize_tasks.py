"""Quantization of what is no classifier of single texts: a regression on pairs of texts, as of how alike two are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bantam.artifact import Artifact, Text
from optimizer import export, quantize
from optimizer.config import ExportConfig
from optimizer.kinds import read_stage
from optimizer.stage import RunContext
from serving.backend.engine import Engine
from tests.optimizer.tiny_models import CONFIGS, make_context, write_tiny_model

METHODS: dict[str, tuple[float, dict[str, Any]]] = {
    "dynamic": (0.05, {"method": "onnx-dynamic-int8", "smooth": 0.9, "calibration_rows": 20}),
    "static": (0.1, {"method": "onnx-static-int8", "calibration": "mse", "smooth": 0.9, "calibration_rows": 20}),
    "openvino": (0.2, {"method": "openvino-static-int8", "calibration_rows": 20}),
    "int4": (0.5, {"method": "onnx-int4"}),
    "mixed": (0.05, {"method": "onnx-mixed", "max_loss": 1e-3, "calibration_rows": 20}),
    "higgs": (0.5, {"method": "onnx-higgs"}),
}
"""Name -> how far its numbers may be from its parent's, in units of their standard deviation, and its keys."""


def of_pairs(folder: Path) -> RunContext:
    """A context whose data has pairs of random words, and numbers."""
    context = make_context(folder)
    split = context.data.splits["train"]
    texts: tuple[Text, ...] = tuple(
        (str(one), str(other)) for one, other in zip(split.texts, split.texts[::-1], strict=True)
    )
    numbers = np.arange(len(texts), dtype=np.float32)
    made = replace(split, texts=texts, targets=numbers)
    data = replace(context.data, task="regression", labels=("likeness",), pair=True)
    return replace(context, data=replace(data, splits=dict.fromkeys(data.splits, made)))


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("pairs")
    with pytest.MonkeyPatch.context() as patch:  # wide enough for its weights to be worth quantizing
        patch.setitem(CONFIGS, "bert", {**CONFIGS["bert"], "hidden_size": 64, "intermediate_size": 128})
        baseline = write_tiny_model(folder / "baseline", "bert", task="regression", labels=("likeness",), pair=True)
    return export.run(baseline, ExportConfig(name="onnx-fp32", format="onnx"), of_pairs(folder / "onnx"))


@pytest.mark.parametrize("name", METHODS)
def test_a_regression_on_pairs_is_quantized_near_to_its_parent(parent: Artifact, name: str, tmp_path: Path) -> None:
    far, keys = METHODS[name]
    context = of_pairs(tmp_path / name)
    made = quantize.run(parent, read_stage({"stage": "quantize", "name": name, **keys}), context)
    assert made.size_bytes < parent.size_bytes
    assert (made.manifest.signature.task, made.manifest.signature.pair) == ("regression", True)
    pairs = list(context.data.splits["dev"].texts)
    before, after = (np.asarray(Engine(each.folder).probabilities(pairs)) for each in (parent, made))
    assert after.shape == (len(pairs), 1)
    assert 0 < np.abs(after - before).mean() < far * before.std()
    turned = np.asarray(Engine(made.folder).probabilities([(each[1], each[0]) for each in pairs]))
    assert np.abs(turned - after).max() > before.std() / 10, "the order of the two texts is seen"
