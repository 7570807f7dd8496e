"""Bits per layer: what each layer gets, what that weighs and computes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from bantam.artifact import Artifact
from bantam.errors import RecipeError, StageError
from optimizer import export, quantize
from optimizer.config import ExportConfig
from optimizer.quantize import embeddings
from optimizer.quantize.embeddings import packable, quantize_embeddings
from optimizer.quantize.formats import Blocks, Channels, Grid, Half, TableRows
from optimizer.quantize.higgs import Scheme
from optimizer.quantize.onnx_mixed import MixedConfig
from optimizer.quantize.restore import memory_bytes
from optimizer.quantize.sensitivity import Probe, few_enough, padded, relative_error
from serving.backend.engine import Engine
from serving.backend.work import multiply_adds_a_token
from tests.optimizer.tiny_models import CONFIGS, VOCABULARY, make_context, with_weights_beside, write_tiny_model

WIDE = {"hidden_size": 96, "intermediate_size": 192, "head_dim": 24}
LAYERS = {"bert": 3 + 2 * 6, "albert": 3 + 6, "llama": 1 + 2 * 7}


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny vocabulary counts as a large one; few texts are compared."""
    monkeypatch.setattr(embeddings, "FEW_ROWS", VOCABULARY)
    monkeypatch.setattr(quantize, "COMPARED", 20)


def exported(folder: Path, kind: str, sizes: dict[str, int]) -> Artifact:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, kind, {**CONFIGS[kind], **sizes})
        baseline = write_tiny_model(folder / "baseline", kind)
    config = ExportConfig(name="onnx-fp32", stage="export", format="onnx")
    return export.run(baseline, config, make_context(folder / "onnx"))


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return exported(tmp_path_factory.mktemp("bert"), "bert", WIDE)


def config_of(**keys: Any) -> MixedConfig:
    return MixedConfig(name="mixed", **keys)


def made(parent: Artifact, folder: Path, **keys: Any) -> Artifact:
    return quantize.run(parent, config_of(**keys), make_context(folder))


def chosen(artifact: Artifact) -> dict[str, str]:
    return {name: layer["format"] for name, layer in artifact.manifest.details["layers"].items()}


def test_bits_go_where_they_gain_most_and_the_budget_is_kept(parent: Artifact, tmp_path: Path) -> None:
    mixed = made(parent, tmp_path / "mixed", average_bits=6.0)
    details = mixed.manifest.details
    assert mixed.digest == made(parent, tmp_path / "again", average_bits=6.0).digest
    assert len({*chosen(mixed).values()}) > 1
    assert 5.5 < details["average_bits"] <= 6.0
    assert mixed.manifest.compute.precision == "int4"
    for layer in details["layers"].values():
        assert layer["size"] > 0 < layer["coefficient"]
    # What is said to be stored is stored.
    assert details["product_bytes"] + details["embedding_bytes"] == sum(
        layer["size"] for layer in details["layers"].values()
    )
    assert multiply_adds_a_token(mixed.folder / "model.onnx") == multiply_adds_a_token(parent.folder / "model.onnx")
    more = made(parent, tmp_path / "more", average_bits=12.0)
    assert more.manifest.details["predicted_loss"] < 0.3 * details["predicted_loss"]
    differences = [each.manifest.metrics["logits"]["mean_difference"] for each in (mixed, more)]
    assert differences[1] < 0.6 * differences[0]
    within = made(parent, tmp_path / "within", max_loss=details["predicted_loss"])
    assert within.manifest.details["average_bits"] <= details["average_bits"]
    assert within.manifest.details["predicted_loss"] <= details["predicted_loss"]


def test_grids_are_choices_too(parent: Artifact, tmp_path: Path) -> None:
    mixed = made(parent, tmp_path / "grids", average_bits=3.6, choices=("higgs2", "higgs3", "higgs4", "int8"))
    details, formats = mixed.manifest.details, {*chosen(mixed).values()}
    assert 3.0 < details["average_bits"] <= 3.6
    assert "higgs2" in formats
    assert len(formats) > 1
    of_products = [form for name, form in chosen(mixed).items() if "embeddings" not in name]
    assert mixed.manifest.compute.precision == min(of_products).replace("higgs", "grid")
    assert mixed.manifest.metrics["logits"]["mean_difference"] < mixed.manifest.metrics["logits"]["reference_std"]
    engine, texts = Engine(mixed.folder, threads=1), ["w1 w2 w3", "w9 w8 w7 w6 w5", "w4"]
    alone = np.concatenate([engine.probabilities([text]) for text in texts])
    np.testing.assert_allclose(engine.probabilities(texts), alone, rtol=0, atol=1e-5)
    limit = 1.3 * mixed.size_bytes / 1e6
    assert made(parent, tmp_path / "mb", max_mb=limit, choices=("higgs2", "int8")).size_bytes <= 1e6 * limit


def test_all_that_is_shipped_is_within_max_mb(parent: Artifact, tmp_path: Path) -> None:
    smallest = made(parent, tmp_path / "smallest", average_bits=5.0, choices=("int4",))
    limit = 1.4 * smallest.size_bytes / 1e6
    mixed = made(parent, tmp_path / "mixed", max_mb=limit)
    assert smallest.size_bytes < mixed.size_bytes <= 1e6 * limit
    assert {*chosen(mixed).values()} - {"int4-32", "int4-128"}
    with pytest.raises(StageError, match=r"max_mb = 0\.01 cannot be kept: with choices int4, int8, fp16 the least is"):
        made(parent, tmp_path / "too-small", max_mb=0.01)


@pytest.mark.parametrize(("kind", "sizes"), [("albert", {**WIDE, "embedding_size": 48}), ("llama", WIDE)])
def test_it_is_for_shared_weights_odd_widths_and_decoders(kind: str, sizes: dict[str, int], tmp_path: Path) -> None:
    odd = exported(tmp_path, kind, {**sizes, "intermediate_size": 178})
    artifact = made(odd, tmp_path / "mixed", average_bits=7.0)
    assert len(chosen(artifact)) == LAYERS[kind]
    assert not [name for name in chosen(artifact) if "." not in name], "named after their modules"
    assert artifact.manifest.compute.batch_invariant
    engine, texts = Engine(artifact.folder, threads=1), ["w1 w2 w3", "w9 w8 w7 w6 w5", "w4"]
    alone = np.concatenate([engine.probabilities([text]) for text in texts])
    np.testing.assert_allclose(engine.probabilities(texts), alone, rtol=0, atol=1e-5)


def test_excluded_layers_stay_as_they_are(parent: Artifact, tmp_path: Path) -> None:
    patterns = ("bert.embeddings", "bert.encoder.layer.1", "bert.encoder.layer.*.output.dense")
    artifact = made(parent, tmp_path / "some", average_bits=6.0, exclude=patterns)
    names = chosen(artifact)
    assert names
    assert not [name for name in names if "embeddings" in name or "layer.1" in name or "0.output" in name]
    assert "embedding_bytes" in artifact.manifest.details
    kept = {weight.name for weight in onnx.load(artifact.folder / "model.onnx").graph.initializer}
    assert {"bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.output.dense.weight"} <= kept
    with pytest.raises(
        RecipeError, match=r"no layer bert\.encoder\.layer\.7\. Known: .*bert\.encoder\.layer\.\*\.inter"
    ):
        made(parent, tmp_path / "none", average_bits=6.0, exclude=("bert.encoder.layer.7",))
    with pytest.raises(StageError, match="nothing to choose for"):
        made(parent, tmp_path / "all", average_bits=6.0, exclude=("*",))


def test_a_budget_that_cannot_be_kept_says_the_least(parent: Artifact, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"average_bits = 4 cannot be kept: .* the least is 4\.7"):
        made(parent, tmp_path / "bits", average_bits=4.0)
    with pytest.raises(
        StageError, match=r"max_loss = 1e-12 cannot be kept: with .* the least is .* Allow a larger loss"
    ):
        made(parent, tmp_path / "loss", max_loss=1e-12, choices=("int4", "int8"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "got no budget, expected exactly one of average_bits, max_mb, max_loss"),
        ({"average_bits": 5.0, "max_mb": 7.0}, "got average_bits and max_mb, expected exactly one"),
        ({"average_bits": 5.0, "choices": ("int4", "int4")}, "each once"),
        ({"average_bits": 5.0, "choices": ()}, "one or more"),
        (
            {"average_bits": 9.0, "choices": ("int8",), "block_sizes": (64,)},
            "block_sizes: got without int4 among choices",
        ),
    ],
)
def test_a_recipe_has_one_budget_and_choices(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config_of(**keys)


def test_weights_in_a_file_beside_the_graph_give_the_same(parent: Artifact, tmp_path: Path) -> None:
    beside = with_weights_beside(parent, tmp_path / "beside")
    one, two = (made(each, tmp_path / name, average_bits=6.0) for each, name in ((parent, "one"), (beside, "two")))
    assert "model.onnx.data" in two.manifest.deployable
    assert one.manifest.details == two.manifest.details
    assert one.manifest.metrics["logits"] == two.manifest.metrics["logits"]


@pytest.mark.parametrize(
    "form",
    [
        *(Blocks(4, 32, "fp32"), Blocks(8, 32, "fp32"), Blocks(8, 128, "fp32"), Blocks(4, 16, "fp32")),
        *(Channels(), Half()),
    ],
    ids=str,
)
def test_a_product_is_what_its_format_says(form: Blocks | Channels | Half) -> None:
    weight = np.random.default_rng(1).normal(size=(90, 14)).astype(np.float32)
    weight[:, 2] = 0
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", 90])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["tokens", 14])],
        [numpy_helper.from_array(weight, "w")],
    )
    form.put(graph, "w", Path())
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    (got,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": np.eye(90, dtype=np.float32)})
    off = np.abs(got - form.restored(weight)) > 2e-5
    assert off.mean() < 2e-3, "numbers half way between two steps, which go to either"
    assert sum(numpy_helper.to_array(each).nbytes for each in graph.initializer) == form.size(weight.shape)


@pytest.mark.parametrize(
    ("form", "width"),
    [(TableRows(4, 32), 96), (TableRows(8), 96), (TableRows(4, 64), 96), (TableRows(16), 96), (TableRows(8), 95)],
    ids=str,
)
def test_a_table_is_what_its_format_says(form: TableRows, width: int) -> None:
    table = np.random.default_rng(1).normal(size=(VOCABULARY, width)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["t", "ids"], ["y"])],
        "lookup",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["tokens"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["tokens", width])],
        [numpy_helper.from_array(table, "t")],
    )
    if width % 2:
        assert not packable(graph), "a byte has two values of a row"
        quantize_embeddings(graph, 4)
    else:
        form.put(graph, "t", Path())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (got,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"ids": np.arange(VOCABULARY)})
    np.testing.assert_allclose(got, form.restored(table), rtol=0, atol=1e-6)
    stored = sum(numpy_helper.to_array(each).nbytes for each in graph.initializer if VOCABULARY in each.dims)
    assert stored == form.size(table.shape)


def test_grids_of_other_groups_side_by_side_are_what_they_say() -> None:
    """As many groups of a row, of 32 and of 64, in two products, and a table whose rows are restored as looked up."""
    rng = np.random.default_rng(1)
    shapes = {"t": (VOCABULARY, 96), "w": (96, 96), "v": (96, 192)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    formats = {"t": _grid(4, 96, 1), "w": _grid(3, 96, 0), "v": _grid(2, 192, 0)}
    nodes = [("Gather", ["t", "ids"], "x"), ("MatMul", ["x", "w"], "h"), ("MatMul", ["h", "v"], "y")]
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, [output]) for kind, inputs, output in nodes],
        "chain",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["tokens"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["tokens", 192])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    for name, form in formats.items():
        form.put(graph, name, Path())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (got,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"ids": np.arange(VOCABULARY)})
    table, first, second = (form.restored(weights[name]) for name, form in formats.items())
    np.testing.assert_allclose(got, table @ first @ second, rtol=0, atol=2e-3)
    whole = 4 * (weights["w"].size + weights["v"].size)
    # Beside it the grid, and the rotation by which rows of the table are turned back.
    assert 0 < memory_bytes(graph, shapes) - formats["t"].size(shapes["t"]) - whole < 10_000
    for name, form in formats.items():
        stored = [numpy_helper.to_array(each).nbytes for each in graph.initializer if each.name.startswith(f"{name}.")]
        assert sum(stored) == form.size(shapes[name])


def _grid(bits: Literal[2, 3, 4], columns: int, dimensions: int) -> Grid:
    return Grid(Scheme(bits).fits(columns), dimensions)


def test_a_probe_tells_what_a_replaced_weight_loses(tmp_path: Path) -> None:
    """Of one product, the loss of a weight's error E is the mean of (x E)^2 in units of the variance of x W."""
    rng = np.random.default_rng(0)
    weight, texts = rng.normal(size=(6, 3)).astype(np.float32), rng.integers(0, 6, (20, 1))
    graph = helper.make_graph(
        [helper.make_node("Gather", ["w", "last"], ["logits"]), helper.make_node("Squeeze", ["ids", "one"], ["last"])][
            ::-1
        ],
        "lookup",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([1]), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    probe = Probe(model, ["w"], [{"ids": row[None]} for row in texts], folder=tmp_path, threads=1)
    error = 0.1 * rng.normal(size=weight.shape).astype(np.float32)
    rows = texts[:, 0]
    expected = np.square(error[rows]).mean() / weight[rows].var(axis=0).mean()
    assert probe.loss({}) == 0
    assert probe.loss({"w": weight + error}) == pytest.approx(expected, rel=1e-4)
    assert relative_error(weight, weight + error) == pytest.approx(np.square(error).sum() / np.square(weight).sum())


def test_a_large_model_is_asked_fewer_and_shorter_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimizer.quantize.sensitivity.WORK", 1e6)
    texts = [{"input_ids": np.ones((1, 40), np.int64)} for _ in range(30)]
    found = [few_enough(texts, per_token) for per_token in (500, 1250, 5000, 1e9)]
    assert [(len(few), few[0]["input_ids"].shape[1]) for few in found] == [(30, 40), (20, 40), (8, 25), (8, 16)]


def test_texts_of_like_lengths_are_padded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimizer.quantize.sensitivity.TOKENS", 8)
    batches = [{"input_ids": np.full((1, n), n), "attention_mask": np.ones((1, n), np.int64)} for n in (4, 2, 3, 20)]
    found = padded(batches, {"input_ids": 9})
    assert [batch["input_ids"].tolist() for batch in found] == [[[2, 2, 9], [3, 3, 3]], [[4] * 4], [[20] * 20]]
    assert found[0]["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
