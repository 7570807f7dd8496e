from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from optimizer import export, logits, quantize
from optimizer.artifact import Artifact
from optimizer.config import ExportConfig, QuantizeConfig
from optimizer.errors import StageError
from optimizer.quantize.onnx_4bit import pack_embeddings
from tests.optimizer.tiny_models import CONFIGS, VOCABULARY, make_context, write_tiny_model

INT4 = QuantizeConfig(name="onnx-int4", stage="quantize", method="onnx-int4")
MIXED = QuantizeConfig(name="onnx-int8", stage="quantize", method="onnx-dynamic-int8", embedding_bits=4)
PRODUCTS = {"bert": 2 * 6 + 1, "llama": 2 * 7}
WIDE = {"hidden_size": 96, "intermediate_size": 192, "head_dim": 24}


@pytest.fixture(scope="module", params=sorted(PRODUCTS))
def parent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Wide enough for most weights to be worth quantizing."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, request.param, {**CONFIGS[request.param], **WIDE})
        baseline = write_tiny_model(folder / "baseline", request.param)
    config = ExportConfig(name="onnx-fp32", stage="export", format="onnx")
    return export.run(baseline, config, make_context(folder / "onnx"))


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
    assert (loaded.format, loaded.precision) == ("onnx", "int4")
    figures = loaded.metrics["logits"]
    assert 0 < figures["mean_difference"] < 0.25 * figures["reference_std"]
    # 4 bits, a scale of 32 and a zero point of 4 bits for each 32 weights, in place of 32 bits.
    packed = [w for w in weights(parent).values() if len(w.dims) == 2 and 4 * np.prod(w.dims) >= 16_384]
    saved = sum(4 * int(np.prod(w.dims)) for w in packed) * (1 - (4 + 36 / 32) / 32)
    assert weight_bytes(one) == pytest.approx(weight_bytes(parent) - saved, rel=0.02)


def test_products_and_embeddings_are_packed_and_the_classifier_is_not(parent: Artifact, tmp_path: Path) -> None:
    artifact = quantize.run(parent, INT4, make_context(tmp_path / "int4"))
    model = onnx.load(artifact.folder / "model.onnx")
    operators = [node.op_type for node in model.graph.node]
    details = artifact.manifest.details
    assert operators.count("MatMulNBits") == details["int4_products"] in PRODUCTS.values()
    assert operators.count("GatherBlockQuantized") == details["int4_embeddings"] >= 1
    assert {"MatMul", "Gemm"} & {*operators}  # the classifier
    assert model.ir_version >= 10


def test_a_text_has_the_same_scores_alone_and_among_others(parent: Artifact, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(4, VOCABULARY, (5, 20))
    lengths = (20, 13, 7, 3, 1)
    mask = (np.arange(20) < np.array(lengths)[:, None]).astype(np.int64)
    pad = parent.manifest.signature.pad_token_id
    everything = {"input_ids": np.where(mask == 1, ids, pad), "attention_mask": mask, "token_type_ids": 0 * ids}
    batch = {name: everything[name] for name in parent.manifest.signature.inputs}
    for products in ("fp32", "int8"):
        context = make_context(tmp_path / products)
        artifact = quantize.run(parent, INT4.model_copy(update={"products": products}), context)
        scores = logits.of(artifact.folder, artifact.manifest, threads=1)
        together = scores(batch)
        for row, length in enumerate(lengths):
            alone = scores({name: array[row : row + 1, :length] for name, array in batch.items()})
            np.testing.assert_allclose(together[row : row + 1], alone, rtol=1e-3, atol=1e-3 * np.abs(together).max())


def test_larger_blocks_are_smaller_files(parent: Artifact, tmp_path: Path) -> None:
    large = quantize.run(parent, INT4, make_context(tmp_path / "32"))
    small = quantize.run(parent, INT4.model_copy(update={"block_size": 16}), make_context(tmp_path / "16"))
    assert large.size_bytes < 0.95 * small.size_bytes


def test_int8_with_embeddings_in_4_bits(parent: Artifact, tmp_path: Path) -> None:
    int8 = quantize.run(parent, MIXED.model_copy(update={"embedding_bits": 8}), make_context(tmp_path / "int8"))
    mixed = quantize.run(parent, MIXED, make_context(tmp_path / "mixed"))
    assert mixed.manifest.precision == "int8"
    assert mixed.manifest.details["int4_embeddings"] == int8.manifest.details["int8_embeddings"] >= 1
    operators = [node.op_type for node in onnx.load(mixed.folder / "model.onnx").graph.node]
    assert "GatherBlockQuantized" in operators
    assert "MatMulInteger" in operators
    assert mixed.size_bytes < int8.size_bytes
    figures = mixed.manifest.metrics["logits"]
    assert 0 < figures["mean_difference"] < 0.2 * figures["reference_std"]


def test_rows_of_4_bits_are_off_by_at_most_half_a_step(parent: Artifact, tmp_path: Path) -> None:
    artifact = quantize.run(parent, MIXED, make_context(tmp_path / "mixed"))
    model = onnx.load(artifact.folder / "model.onnx")
    lookup = next(node for node in model.graph.node if node.op_type == "GatherBlockQuantized")
    rows, scales, zeros = (
        numpy_helper.to_array(weights(artifact)[lookup.input[i]]).astype(np.float32) for i in (0, 2, 3)
    )
    table = numpy_helper.to_array(weights(parent)[lookup.input[0].removesuffix("_Q4")])
    steps = np.repeat(scales, 32, axis=1)[:, : table.shape[1]]
    unpacked = (rows - np.repeat(zeros, 32, axis=1)[:, : table.shape[1]]) * steps
    # A step where the zero point itself was rounded.
    assert (np.abs(unpacked - table) <= steps + 1e-6).all()
    assert np.sqrt(np.mean((unpacked - table) ** 2)) < 0.4 * steps.mean()


def test_a_table_that_is_looked_up_twice_is_packed_once() -> None:
    table = np.random.default_rng(0).normal(size=(200, 48)).astype(np.float32)
    table[0] = 0
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], [name]) for name in ("one", "two")],
        "twice",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["tokens"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["tokens", 48]) for name in ("one", "two")],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    assert pack_embeddings(model, 32) == 2
    assert len(model.graph.initializer) == 3
    assert model.ir_version == 10
    one, two = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"ids": np.arange(200)})
    assert np.array_equal(one, two)
    assert not one[0].any()
    assert np.abs(one - table).max() < 0.5  # steps of a fifteenth of what 32 normal numbers span


def test_a_parent_of_the_wrong_format_or_precision_is_refused(parent: Artifact, tmp_path: Path) -> None:
    int4 = quantize.run(parent, INT4, make_context(tmp_path / "int4"))
    with pytest.raises(StageError, match=r"onnx int4\. Expected a parent of format onnx in fp32"):
        quantize.run(int4, INT4, make_context(tmp_path / "again"))
    with pytest.raises(StageError, match="onnx int4"):
        quantize.run(int4, MIXED, make_context(tmp_path / "mixed"))


def test_embedding_bits_are_refused_where_they_mean_nothing() -> None:
    for method in ("onnx-int4", "openvino-static-int8"):
        with pytest.raises(ValidationError, match="embedding_bits goes with method"):
            QuantizeConfig(name="x", stage="quantize", method=method, embedding_bits=4)


def test_the_root_logger_is_left_alone(parent: Artifact, tmp_path: Path) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    quantize.run(parent, INT4, make_context(tmp_path / "int4"))
    assert (root.handlers[:], root.level) == before
