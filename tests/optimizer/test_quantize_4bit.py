from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data
from onnxruntime.quantization.onnx_model import ONNXModel
from pydantic import ValidationError

from bantam.artifact import Artifact
from bantam.errors import StageError
from optimizer import export, quantize
from optimizer.config import ExportConfig
from optimizer.quantize import embeddings, onnx_4bit, onnx_graph
from optimizer.quantize.embeddings import packed_rows, quantize_embeddings
from optimizer.quantize.onnx_4bit import Int4Config
from optimizer.quantize.onnx_dynamic import DynamicInt8Config
from optimizer.quantize.outliers import energies, outlier_channels, rounded
from serving.backend.engine import Engine
from tests.optimizer.tiny_models import CONFIGS, VOCABULARY, make_context, with_weights_beside, write_tiny_model

INT4 = Int4Config(name="onnx-int4")
MIXED = DynamicInt8Config(name="onnx-int8", embedding_bits=4)
PRODUCTS = {"bert": 2 * 6 + 1, "llama": 2 * 7}
WIDE = {"hidden_size": 96, "intermediate_size": 192, "head_dim": 24}


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny vocabulary counts as a large one."""
    monkeypatch.setattr(embeddings, "FEW_ROWS", VOCABULARY)


@pytest.fixture(scope="module", params=sorted(PRODUCTS))
def parent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Wide enough for most weights to be worth quantizing."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, request.param, {**CONFIGS[request.param], **WIDE})
        baseline = write_tiny_model(folder / "baseline", request.param)
    config = ExportConfig(name="onnx-fp32", stage="export", format="onnx")
    return export.run(baseline, config, replace(make_context(folder / "onnx"), quantization="Q8_0"))


def weights(artifact: Artifact) -> dict[str, onnx.TensorProto]:
    return {weight.name: weight for weight in onnx.load(artifact.folder / "model.onnx").graph.initializer}


def weight_bytes(artifact: Artifact) -> int:
    return sum(weight.ByteSize() for weight in weights(artifact).values())


@pytest.mark.parametrize("products", ["fp32", "int8"])
def test_int4_is_small_close_to_its_parent_and_the_same_each_time(
    products: str, parent: Artifact, tmp_path: Path
) -> None:
    config = INT4.model_copy(update={"products": products})
    one = quantize.run(parent, config, make_context(tmp_path / "one"))
    two = quantize.run(parent, config, make_context(tmp_path / "two"))
    assert one.digest == two.digest
    loaded = Artifact.load(one.folder, verify=True).manifest
    assert (loaded.layout, loaded.compute.precision) == ("onnx", "int4")
    figures = loaded.metrics["logits"]
    assert 0 < figures["mean_difference"] < 0.25 * figures["reference_std"]
    # In place of 32 bits: 4 and, for each 32 weights, a scale of 32 and a zero point of 4 (words: two numbers of 16).
    # A table of few rows, bert's positions: 8, and a scale of 32 a row.
    large = {name: w for name, w in weights(parent).items() if len(w.dims) == 2 and 4 * np.prod(w.dims) >= 16_384}
    bits = {name: 8 + 32 / w.dims[1] if "position" in name else 4 + 36 / 32 for name, w in large.items()}
    saved = sum(int(np.prod(w.dims)) * (4 - bits[name] / 8) for name, w in large.items())
    assert weight_bytes(one) == pytest.approx(weight_bytes(parent) - saved, rel=0.02)


def test_products_and_embeddings_are_packed_and_the_classifier_is_not(parent: Artifact, tmp_path: Path) -> None:
    artifact = quantize.run(parent, INT4, replace(make_context(tmp_path / "int4"), quantization="Q4_0"))
    assert (parent.manifest.quantization, artifact.manifest.quantization) == ("Q8_0", "Q4_0"), "as the contexts say"
    model = onnx.load(artifact.folder / "model.onnx")
    operators = [node.op_type for node in model.graph.node]
    details = artifact.manifest.details
    assert operators.count("MatMulNBits") == details["int4_products"] in PRODUCTS.values()
    assert operators.count("BitShift") == 1  # the words; bert's positions are too few
    assert details["int4_embeddings"] >= 1
    assert {"MatMul", "Gemm"} & {*operators}  # the classifier
    assert model.ir_version >= 10


@pytest.mark.parametrize("products", ["fp32", "int8"])
def test_a_text_has_the_same_probabilities_alone_and_among_others(
    products: str, parent: Artifact, tmp_path: Path
) -> None:
    config = INT4.model_copy(update={"products": products})
    artifact = quantize.run(parent, config, make_context(tmp_path / products))
    assert artifact.manifest.compute.batch_invariant is (products == "fp32")
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in rng.integers(0, VOCABULARY - 4, length)) for length in (20, 13, 7, 3, 1, 40)]
    engine = Engine(artifact.folder, threads=1)
    alone = np.concatenate([engine.probabilities([text]) for text in texts])
    assert np.ptp(alone, axis=0).max() > 0.1
    np.testing.assert_allclose(engine.probabilities(texts), alone, rtol=0, atol=1e-5)


def test_larger_blocks_are_smaller_files(parent: Artifact, tmp_path: Path) -> None:
    large = quantize.run(parent, INT4, make_context(tmp_path / "32"))
    small = quantize.run(parent, INT4.model_copy(update={"block_size": 16}), make_context(tmp_path / "16"))
    assert large.size_bytes < 0.95 * small.size_bytes


def test_int8_with_embeddings_in_4_bits(parent: Artifact, tmp_path: Path) -> None:
    int8 = quantize.run(parent, MIXED.model_copy(update={"embedding_bits": 8}), make_context(tmp_path / "int8"))
    mixed = quantize.run(parent, MIXED, make_context(tmp_path / "mixed"))
    assert mixed.manifest.compute.precision == "int8"
    assert mixed.manifest.details["int4_embeddings"] == int8.manifest.details["int8_embeddings"] >= 1
    operators = [node.op_type for node in onnx.load(mixed.folder / "model.onnx").graph.node]
    assert "BitShift" in operators
    assert "MatMulInteger" in operators
    assert mixed.size_bytes < int8.size_bytes
    figures = mixed.manifest.metrics["logits"]
    assert 0 < figures["mean_difference"] < 0.2 * figures["reference_std"]


def test_rows_of_4_bits_are_off_by_at_most_half_a_step() -> None:
    rng = np.random.default_rng(0)
    table = (rng.normal(size=(100, 64)) * rng.uniform(0.01, 10, (100, 1))).astype(np.float32)
    table[3] = 0
    rows, scales = packed_rows(table, 32)
    assert rows.dtype == np.uint8
    assert (rows.shape, scales.shape) == ((100, 2, 16), (100, 2, 2))
    step, low = np.split(scales.astype(np.float32), 2, axis=2)
    unpacked = np.concatenate([rows & 15, rows >> 4], axis=2) * step + low
    # float16 rounds the minimum by up to 2**-11 of it.
    off = np.abs(unpacked.reshape(table.shape) - table).reshape(100, 2, 32)
    assert (off <= step / 2 + np.abs(low) * 2**-11 + 1e-6).all()
    assert np.abs(unpacked[3]).max() < 1e-5


def test_a_table_that_is_looked_up_twice_is_packed_once() -> None:
    table = np.random.default_rng(0).normal(size=(5000, 48)).astype(np.float32)
    table[0] = 0
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], [name]) for name in ("one", "two")],
        "twice",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["tokens"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["tokens", 48]) for name in ("one", "two")],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    assert quantize_embeddings(model.graph, 4, 32) == 1
    assert sum(weight.dims[:1] == [5000] for weight in model.graph.initializer) == 2
    one, two = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"ids": np.arange(5000)})
    assert np.array_equal(one, two)
    assert np.abs(one[0]).max() < 1e-5
    assert np.abs(one - table).max() < 0.4  # half a fifteenth of what 48 normal numbers span, at most


def test_a_parent_of_the_wrong_format_or_precision_is_refused(parent: Artifact, tmp_path: Path) -> None:
    int4 = quantize.run(parent, INT4, make_context(tmp_path / "int4"))
    with pytest.raises(StageError, match=r"onnx int4\. Expected a parent of format onnx in fp32"):
        quantize.run(int4, INT4, make_context(tmp_path / "again"))
    with pytest.raises(StageError, match="onnx int4"):
        quantize.run(int4, MIXED, make_context(tmp_path / "mixed"))


def test_a_block_size_is_refused_where_nothing_is_in_blocks() -> None:
    with pytest.raises(ValidationError, match="block_size goes with embedding_bits = 4"):
        DynamicInt8Config(name="x", block_size=64)


def test_the_root_logger_is_left_alone(parent: Artifact, tmp_path: Path) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    quantize.run(parent, INT4, make_context(tmp_path / "int4"))
    assert (root.handlers[:], root.level) == before


def test_weights_in_a_file_beside_the_graph_give_the_same(parent: Artifact, tmp_path: Path) -> None:
    beside = with_weights_beside(parent, tmp_path / "beside")
    config = INT4.model_copy(update={"outliers": 0.05})
    context = make_context(tmp_path / "two")
    one, two = quantize.run(parent, config, make_context(tmp_path / "one")), quantize.run(beside, config, context)
    assert "model.onnx.data" in two.manifest.deployable
    assert not [*context.scratch.iterdir()]
    assert one.manifest.metrics["logits"] == two.manifest.metrics["logits"]
    expected = {name: numpy_helper.to_array(weight).tobytes() for name, weight in weights(one).items()}
    assert {name: numpy_helper.to_array(weight).tobytes() for name, weight in weights(two).items()} == expected


def test_only_weights_that_must_be_turned_over_are_read_before_they_are_packed(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    as_they_are, turned = (rng.normal(size=(64, 64)).astype(np.float32) for _ in range(2))
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "as"], ["between"]), helper.make_node("Gemm", ["between", "turned"], ["y"],
                                                                              transB=1)],
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["tokens", 64])],
        [numpy_helper.from_array(as_they_are, "as"), numpy_helper.from_array(turned, "turned")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    assert onnx_graph.transposed(model.graph) == {"turned"}
    onnx_graph.take_in(model.graph, tmp_path, onnx_graph.transposed(model.graph))
    ONNXModel(model).replace_gemm_with_matmul()
    assert [uses_external_data(weight) for weight in model.graph.initializer] == [True, False]
    values = rng.normal(size=(5, 64)).astype(np.float32)
    batches: list[Any] = [{"x": values}]
    energy = energies(model, ["x", "between"], batches, folder=tmp_path, threads=1)
    np.testing.assert_allclose(energy["between"], np.square(values @ as_they_are).sum(axis=0), rtol=1e-4)


def test_outliers_keep_16_bits_and_bring_the_answers_nearer(parent: Artifact, tmp_path: Path) -> None:
    plain = quantize.run(parent, INT4, make_context(tmp_path / "plain"))
    config = INT4.model_copy(update={"outliers": 0.2})
    made = quantize.run(parent, config, make_context(tmp_path / "outliers"))
    assert made.digest == quantize.run(parent, config, make_context(tmp_path / "again")).digest
    assert made.manifest.compute == plain.manifest.compute
    kept = {name: weight for name, weight in weights(made).items() if name.endswith(".outliers")}
    assert len(kept) == made.manifest.details["int4_products"]
    assert {weight.data_type for weight in kept.values()} == {TensorProto.FLOAT16}
    assert sum(weight.dims[0] for weight in kept.values()) == made.manifest.details["outlier_channels"]
    bytes_kept = sum(2 * int(np.prod(weight.dims)) for weight in kept.values())
    assert weight_bytes(made) - weight_bytes(plain) == pytest.approx(bytes_kept, rel=0.1)
    before, after = (each.manifest.metrics["logits"]["mean_difference"] for each in (plain, made))
    assert after < before


def test_a_product_with_outliers_is_that_of_the_equation(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight, values = rng.normal(size=(64, 96)).astype(np.float32), rng.normal(size=(5, 64)).astype(np.float32)
    channels = np.array([3, 40])
    values[:, channels] *= 30
    found = outlier_channels(weight, np.square(values.astype(np.float64)).sum(axis=0), 0.03, 32)
    assert found.tolist() == channels.tolist()
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["tokens", 96])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    batches: list[Any] = [{"x": values[:2]}, {"x": values[2:]}]
    energy = energies(model, ["x"], batches, folder=tmp_path, threads=1)
    np.testing.assert_allclose(energy["x"], np.square(values).sum(axis=0), rtol=1e-5)
    kept = onnx_4bit._pack(
        model, [*model.graph.node], tmp_path, INT4.model_copy(update={"outliers": 0.03}), {"w": energy["x"]}
    )
    assert kept == 2
    (got,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": values})
    without = weight.copy()
    without[channels] = 0
    outliers = weight[channels].astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(got, values @ rounded(without, 32) + values[:, channels] @ outliers, rtol=0, atol=1e-3)
    assert np.abs(got - values @ weight).max() < 0.5 * np.abs(values @ (rounded(weight, 32) - weight)).max()


@pytest.mark.parametrize("block_size", [16, 32, 128])
def test_rounding_to_blocks_is_the_runtimes(block_size: int) -> None:
    weight = np.random.default_rng(1).normal(size=(80, 8)).astype(np.float32)
    weight[:, 2] = 0
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", 80])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["tokens", 8])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx_4bit._pack(model, [*model.graph.node], Path(), INT4.model_copy(update={"block_size": block_size}), {})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (got,) = session.run(None, {"x": np.eye(80, dtype=np.float32)})
    np.testing.assert_allclose(got, rounded(weight, block_size), rtol=0, atol=1e-5)
