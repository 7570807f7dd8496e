from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from bantam.artifact import Artifact, Compute
from bantam.errors import StageError
from optimizer import export, quantize
from optimizer.config import ExportConfig, QuantizeConfig
from optimizer.quantize.embeddings import quantize_embeddings, symmetric_rows
from optimizer.quantize.method import Batches, Quantized
from optimizer.quantize.onnx_dynamic import DynamicInt8Config
from optimizer.quantize.openvino_static import StaticInt8Config
from optimizer.stage import RunContext
from tests.optimizer.tiny_models import make_context, write_tiny_model

DYNAMIC = DynamicInt8Config(name="onnx-int8")
STATIC = StaticInt8Config(name="openvino-int8", calibration_rows=20)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_tiny_model(tmp_path_factory.mktemp("bert") / "baseline", "bert")


@pytest.fixture(scope="module")
def bert_onnx(bert: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    config = ExportConfig(name="onnx-fp32", stage="export", format="onnx")
    return export.run(bert, config, make_context(tmp_path_factory.mktemp("bert") / "onnx"))


@pytest.mark.parametrize("config", [DYNAMIC, STATIC], ids=lambda config: config.method)
def test_int8_is_small_close_to_its_parent_and_the_same_each_time(
    config: QuantizeConfig, bert_onnx: Artifact, tmp_path: Path
) -> None:
    one = quantize.run(bert_onnx, config, make_context(tmp_path / "one"))
    two = quantize.run(bert_onnx, config, make_context(tmp_path / "two"))
    assert one.manifest.files == two.manifest.files
    assert one.digest == two.digest
    loaded = Artifact.load(one.folder, verify=True).manifest
    assert loaded.compute.precision == "int8"
    assert loaded.signature == bert_onnx.manifest.signature
    assert loaded.random_weights
    assert [entry["stage"] for entry in loaded.lineage] == ["finetune", "export", "quantize"]
    assert loaded.lineage[-1]["config"]["method"] == config.method
    weights = {"onnx": "model.onnx", "openvino": "model.bin"}[loaded.layout]
    assert loaded.files[weights]["bytes"] < 0.5 * bert_onnx.manifest.files["model.onnx"]["bytes"]
    figures = loaded.metrics["logits"]
    assert figures["texts"] == 40
    assert 0 < figures["mean_difference"] < 0.1 * figures["reference_std"]
    assert figures["mean_difference"] <= figures["max_difference"] < figures["reference_std"]
    assert not list((tmp_path / "one-scratch").iterdir())
    assert set(loaded.files) == set(loaded.deployable)


def test_static_takes_an_openvino_parent_too(bert_onnx: Artifact, tmp_path: Path) -> None:
    config = ExportConfig(name="openvino-fp32", stage="export", format="openvino")
    parent = export.run(bert_onnx, config, make_context(tmp_path / "openvino"))
    int8 = quantize.run(parent, STATIC, make_context(tmp_path / "int8"))
    assert int8.manifest.compute.activations.dynamic is False
    assert int8.manifest.details["calibration_texts"] == 20
    assert int8.manifest.details["quantizer"].startswith("nncf 3")
    assert int8.size_bytes < parent.size_bytes


def test_calibration_texts_are_drawn_by_the_seed(bert_onnx: Artifact, tmp_path: Path) -> None:
    digests = {
        quantize.run(bert_onnx, STATIC.model_copy(update={"seed": seed}), make_context(tmp_path / str(seed))).digest
        for seed in (0, 1)
    }
    assert len(digests) == 2


@pytest.mark.parametrize(("config", "expected"), [(DYNAMIC, "format onnx in"), (STATIC, "format onnx or openvino in")])
def test_a_parent_of_the_wrong_format_is_refused(
    config: QuantizeConfig, expected: str, bert: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=f"pytorch fp32. Expected a parent of {expected} fp32"):
        quantize.run(bert, config, make_context(tmp_path / "int8"))


def test_an_int8_parent_is_refused(bert_onnx: Artifact, tmp_path: Path) -> None:
    int8 = quantize.run(bert_onnx, DYNAMIC, make_context(tmp_path / "int8"))
    for config in (DYNAMIC, STATIC):
        with pytest.raises(StageError, match="onnx int8"):
            quantize.run(int8, config, make_context(tmp_path / config.name / "again"))


@pytest.mark.parametrize(("value", "expected"), [(0.0, "constant"), (np.nan, "not finite")])
def test_a_result_that_says_nothing_is_refused(
    value: float, expected: str, bert_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(parent: Artifact, config: QuantizeConfig, context: RunContext, batches: Batches) -> Quantized:
        model = onnx.load(parent.folder / "model.onnx")
        weight = next(w for w in model.graph.initializer if w.name == "classifier.weight")
        array = np.full(tuple(weight.dims), value, dtype=np.float32)
        weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
        onnx.save(model, context.folder / "model.onnx")
        return Quantized(Compute())

    method = replace(quantize.METHODS["onnx-dynamic-int8"], write=broken)
    monkeypatch.setitem(quantize.METHODS, "onnx-dynamic-int8", method)
    with pytest.raises(StageError, match=f"logits are {expected} on 40 training texts"):
        quantize.run(bert_onnx, DYNAMIC, make_context(tmp_path / "int8"))


def test_rows_of_an_embedding_are_off_by_at_most_half_a_step() -> None:
    rng = np.random.default_rng(0)
    table = (rng.normal(size=(100, 16)) * rng.uniform(0.01, 10, (100, 1))).astype(np.float32)
    table[3] = 0
    rows, scales = symmetric_rows(table)
    assert rows.dtype == np.int8
    assert scales.shape == (100, 1)
    assert (np.abs(rows * scales - table) <= scales / 2 + 1e-6).all()
    assert not rows[3].any()


def test_only_large_tables_that_are_looked_up_by_rows_become_int8(make_artifact: Callable[..., Artifact]) -> None:
    graph = onnx.load(make_artifact().folder / "model.onnx").graph
    assert quantize_embeddings(graph, 8) == 0  # 20 words, 16 wide: nothing to gain
    table = np.random.default_rng(0).normal(size=(1000, 16)).astype(np.float32)
    weight = next(w for w in graph.initializer if w.name == "embedding")
    weight.CopyFrom(onnx.numpy_helper.from_array(table, "embedding"))
    assert quantize_embeddings(graph, 8) == 1
    kinds = {w.name: w.data_type for w in graph.initializer}
    assert kinds["embedding.int8"] == onnx.TensorProto.INT8
    assert "embedding" not in kinds


def test_an_embedding_that_is_also_a_weight_stays_as_it_is(make_artifact: Callable[..., Artifact]) -> None:
    graph = onnx.load(make_artifact().folder / "model.onnx").graph
    table = np.zeros((1000, 16), dtype=np.float32)
    next(w for w in graph.initializer if w.name == "embedding").CopyFrom(
        onnx.numpy_helper.from_array(table, "embedding")
    )
    graph.node.append(onnx.helper.make_node("Transpose", ["embedding"], ["tied"]))
    assert quantize_embeddings(graph, 8) == 0


def test_the_int8_graph_has_int8_products_and_lookups(bert_onnx: Artifact, tmp_path: Path) -> None:
    artifact = quantize.run(bert_onnx, DYNAMIC, make_context(tmp_path / "int8"))
    graph = onnx.load(artifact.folder / "model.onnx").graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("MatMulInteger") == 2 * 6 + 2  # two layers of six, pooler, classifier
    assert operators.count("MultiHeadAttention") == 2
    assert artifact.manifest.details["int8_embeddings"] == 1
    floats = sum(
        int(np.prod(w.dims)) for w in graph.initializer if w.data_type == onnx.TensorProto.FLOAT and len(w.dims) == 2
    )
    assert floats < 4000  # positions, token types and scales
