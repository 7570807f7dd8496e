"""Weights alone in 8 or 4 bits for OpenVINO."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import nncf  # noqa: F401 - its import sets the level that a test looks at
import numpy as np
import openvino
import pytest
from pydantic import ValidationError

from bantam.artifact import Artifact
from bantam.errors import StageError
from optimizer import export, quantize
from optimizer.config import ExportConfig
from optimizer.quantize import openvino_weights
from optimizer.quantize.openvino_weights import WeightsConfig
from optimizer.stage import RunContext
from serving.backend.engine import Engine
from tests.optimizer.tiny_models import CONFIGS, VOCABULARY, make_context, write_tiny_model

WIDE = {"hidden_size": 64, "intermediate_size": 128}
LAYERS = 2 * 6 + 1
"""Linear layers of the tiny BERT, the pooler among them."""


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Wide enough for its weights, but the classifier's, to be worth compressing."""
    folder = tmp_path_factory.mktemp("bert")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, "bert", {**CONFIGS["bert"], **WIDE})
        baseline = write_tiny_model(folder / "baseline", "bert")
    config = ExportConfig(name="onnx-fp32", stage="export", format="onnx")
    return export.run(baseline, config, make_context(folder / "onnx"))


def made(parent: Artifact, folder: Path, **keys: Any) -> Artifact:
    return quantize.run(parent, WeightsConfig(name="weights", **keys), make_context(folder))


@pytest.fixture(scope="module")
def int4(parent: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return made(parent, tmp_path_factory.mktemp("int4") / "int4", weights="int4")


def stored(artifact: Artifact) -> list[tuple[str, tuple[int, ...]]]:
    """Type and shape of every matrix of the IR."""
    model = openvino.Core().read_model(artifact.folder / "model.xml")
    constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    return [
        (node.get_element_type().get_type_name(), tuple(node.get_output_shape(0)))
        for node in constants
        if len(node.get_output_shape(0)) > 1
    ]


@pytest.mark.parametrize(
    ("keys", "bits", "kind"),
    [
        ({}, 8.5, "u8"),
        ({"scheme": "symmetric"}, 8.5, "i8"),
        ({"weights": "int4"}, 5, "u4"),
        ({"weights": "int4", "scheme": "symmetric", "group_size": 32}, 5, "i4"),
        ({"weights": "nf4"}, 5, "nf4"),
    ],
    ids=["int8", "int8-symmetric", "int4", "int4-symmetric-32", "nf4"],
)
def test_weights_are_small_and_close_to_the_parents(
    keys: dict[str, Any], bits: float, kind: str, parent: Artifact, tmp_path: Path
) -> None:
    one = made(parent, tmp_path / "one", **keys)
    loaded = Artifact.load(one.folder, verify=True).manifest
    name = keys.get("weights", "int8")
    assert (loaded.layout, loaded.compute.precision) == ("openvino", name)
    assert loaded.compute.weights.scheme == ("symmetric" if kind in ("i8", "i4", "nf4") else "asymmetric")
    figures = loaded.metrics["logits"]
    assert 0 < figures["mean_difference"] < 0.25 * figures["reference_std"]
    embeddings = VOCABULARY * 64 + 64 * 64  # words and positions: 8 bits
    assert loaded.details["int8_weights"] == (2 + LAYERS if name == "int8" else 2)
    assert loaded.details[f"{name}_weights"] == (2 + LAYERS if name == "int8" else LAYERS)
    linear = 2 * (4 * 64 * 64 + 2 * 64 * 128) + 64 * 64
    small = parent.manifest.files["model.onnx"]["bytes"] - 4 * (embeddings + linear)  # graph, biases, norms
    assert loaded.files["model.bin"]["bytes"] < small + 1.1 * embeddings + linear * bits / 8 + 64 * 64
    assert kind in {each for each, _ in stored(one)}


def test_it_is_the_same_each_time(int4: Artifact, parent: Artifact, tmp_path: Path) -> None:
    again = made(parent, tmp_path / "again", weights="int4")
    assert again.digest == int4.digest


def test_the_classifier_stays_fp32(int4: Artifact) -> None:
    shapes = [shape for kind, shape in stored(int4) if kind == "f32" and 3 in shape]
    assert [sorted(shape) for shape in shapes if 64 in shape] == [[3, 64]]


def test_an_openvino_parent_gives_the_same(int4: Artifact, parent: Artifact, tmp_path: Path) -> None:
    config = ExportConfig(name="openvino-fp32", stage="export", format="openvino")
    between = export.run(parent, config, make_context(tmp_path / "openvino"))
    one, two = int4, made(between, tmp_path / "two", weights="int4")
    assert one.manifest.metrics["logits"]["max_difference"] == pytest.approx(
        two.manifest.metrics["logits"]["max_difference"], rel=1e-3
    )
    assert one.manifest.details == two.manifest.details
    assert one.size_bytes == pytest.approx(two.size_bytes, rel=0.01)


def test_the_rest_of_a_ratio_gets_8_bits(parent: Artifact, tmp_path: Path) -> None:
    details = made(parent, tmp_path / "half", weights="int4", ratio=0.5).manifest.details
    assert details["int8_weights"] > 2 + 1
    assert details["int4_weights"] + details["int8_weights"] == 2 + LAYERS


def test_embeddings_in_4_bits_are_half_of_those_in_8(int4: Artifact, parent: Artifact, tmp_path: Path) -> None:
    eight, four = int4, made(parent, tmp_path / "four", weights="int4", embedding_bits=4)
    assert eight.manifest.details["int8_weights"] == 2
    assert "int8_weights" not in four.manifest.details
    assert four.manifest.details["int4_weights"] == 2 + LAYERS
    assert eight.size_bytes - four.size_bytes > 0.35 * (VOCABULARY * 64 + 64 * 64)


@pytest.mark.parametrize("key", openvino_weights.DATA_AWARE[1:])
def test_what_is_learnt_from_texts_changes_the_weights(
    key: str, int4: Artifact, parent: Artifact, tmp_path: Path
) -> None:
    learnt = made(parent, tmp_path / "learnt", weights="int4", calibration_rows=16, **{key: True})
    assert learnt.size_bytes == pytest.approx(int4.size_bytes, rel=0.05)
    assert learnt.manifest.files["model.bin"]["sha256"] != int4.manifest.files["model.bin"]["sha256"]
    figures = learnt.manifest.metrics["logits"]
    assert 0 < figures["mean_difference"] < 0.25 * figures["reference_std"]


def test_awq_that_finds_nothing_to_do_says_so(int4: Artifact, parent: Artifact, tmp_path: Path) -> None:
    lines: list[str] = []
    context = make_context(tmp_path / "awq")
    context = RunContext(**{**context.__dict__, "log": lines.append})
    config = WeightsConfig(name="weights", weights="int4", awq=True, calibration_rows=16)
    awq = quantize.run(parent, config, context)
    assert lines == ["weights: NNCF finds no pairs of layers for AWQ in this model; made without it"]
    assert awq.manifest.details["awq"] == "no layers for it"
    assert awq.manifest.files["model.bin"] == int4.manifest.files["model.bin"]


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_with_products_in_fp32_a_text_has_the_same_scores_among_others(
    weights: str, parent: Artifact, tmp_path: Path
) -> None:
    artifact = made(parent, tmp_path / "made", weights=weights, products="fp32")
    assert artifact.manifest.compute.batch_invariant
    assert artifact.manifest.compute.activations.label == "fp32"
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in rng.integers(0, VOCABULARY - 4, length)) for length in (20, 13, 7, 3, 1, 40)]
    engine = Engine(artifact.folder, threads=1)
    alone = np.concatenate([engine.probabilities([text]) for text in texts])
    assert np.ptp(alone, axis=0).max() > 0.05
    np.testing.assert_allclose(engine.probabilities(texts), alone, rtol=0, atol=1e-5)


def test_the_ir_says_what_products_are_computed_in(int4: Artifact, parent: Artifact, tmp_path: Path) -> None:
    exact = made(parent, tmp_path / "exact", weights="int4", products="fp32")
    assert not int4.manifest.compute.batch_invariant
    assert int4.manifest.compute.activations.label == "int8"
    for artifact, group in ((int4, 32), (exact, 0)):
        model = openvino.Core().compile_model(artifact.folder / "model.xml", "CPU")
        assert model.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == group
    assert exact.manifest.files["model.bin"] == int4.manifest.files["model.bin"]


def test_a_model_of_small_weights_alone_is_refused(
    parent: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_weights, "FEWEST", 100_000)
    with pytest.raises(StageError, match="no weights that are worth compressing: none of its matrices has 100,000"):
        made(parent, tmp_path / "int8")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"group_size": 64}, 'group_size goes with weights = "int4" or "nf4"'),
        ({"ratio": 0.5, "awq": True}, "ratio, awq goes with"),
        ({"weights": "nf4", "scheme": "asymmetric"}, "nf4 is symmetric"),
        ({"weights": "nf4", "gptq": True}, "has no gptq"),
        ({"weights": "int4", "group_size": 48}, "32, 64 or 128"),
    ],
)
def test_keys_that_say_nothing_together_are_refused(keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        WeightsConfig(name="weights", **keys)


def test_nncfs_logger_is_left_as_it_was(parent: Artifact, tmp_path: Path) -> None:
    logger = logging.getLogger("nncf")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        made(parent, tmp_path / "int8", weights="int8")
        assert logger.level == logging.WARNING
    finally:
        logger.setLevel(before)
