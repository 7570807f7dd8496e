"""HIGGS: grids against published figures, packing bit by bit, and models against the same weights restored by numpy."""

from __future__ import annotations

import collections
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from bantam.artifact import Artifact, seal
from bantam.errors import StageError
from optimizer import export, logits, quantize
from optimizer.config import ExportConfig
from optimizer.quantize import embeddings, onnx_graph
from optimizer.quantize.grids import lattice, nearest, normal_grid, turn, uniform_grid
from optimizer.quantize.higgs import Scheme, packed, restored, rotation
from optimizer.quantize.onnx_dynamic import DynamicInt8Config
from optimizer.quantize.onnx_higgs import HiggsConfig
from optimizer.quantize.sensitivity import relative_error
from serving.backend.onnx_program import session
from serving.backend.work import multiply_adds_a_token
from tests.optimizer.tiny_models import CONFIGS, VOCABULARY, make_context, write_tiny_model

SCHEMES = [Scheme(bits, grid, 32) for bits in (2, 3, 4) for grid in ("normal-2d", "normal-1d", "uniform")]
LARGE, SHARED = 4096, 2 * 32**2
"""Weights of a matrix that is packed; weights of the rotations, by which rows of tables are multiplied."""


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny vocabulary counts as a large one; few texts are compared."""
    monkeypatch.setattr(embeddings, "FEW_ROWS", VOCABULARY)
    monkeypatch.setattr(quantize, "COMPARED", 20)


@pytest.fixture(scope="module", params=["bert", "llama"])
def parent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Rows of 96 weights, which groups of 32 divide, and of 200, which are filled up."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        wide = {"hidden_size": 96, "intermediate_size": 200, "head_dim": 24}
        patch.setitem(CONFIGS, request.param, {**CONFIGS[request.param], **wide})
        baseline = write_tiny_model(folder / "baseline", request.param)
    config = ExportConfig(name="onnx-fp32", stage="export", format="onnx")
    return export.run(baseline, config, make_context(folder / "onnx"))


def distortion(grid: NDArray[np.float64], samples: NDArray[np.float32]) -> float:
    """Mean squared error of a number."""
    return float(np.square(samples - grid[nearest(samples, grid)]).mean())


def kurtosis(values: NDArray[np.float32]) -> float:
    """3 of normal numbers."""
    return float(np.mean(values**4) / np.mean(values**2) ** 2)


@pytest.mark.parametrize(("bits", "published"), [(2, 0.1175), (3, 0.03454), (4, 0.009497)])
def test_grids_of_one_dimension_have_the_error_that_max_published(bits: int, published: float) -> None:
    from scipy.integrate import quad
    from scipy.stats import norm

    grid = normal_grid(bits, 1)[:, 0]
    edges = [-12.0, *(grid[1:] + grid[:-1]) / 2, 12.0]
    cells = [
        quad(lambda x, point=point: (x - point) ** 2 * norm.pdf(x), low, high)[0]
        for point, low, high in zip(grid, edges[:-1], edges[1:], strict=True)
    ]
    assert sum(cells) == pytest.approx(published, rel=5e-4)


@pytest.mark.parametrize(("bits", "authors"), [(2, 0.10759), (3, 0.029601), (4, 0.0077474)])
def test_grids_of_two_dimensions_are_as_good_as_those_of_the_authors(bits: int, authors: float) -> None:
    """The paper's authors' own grids are in transformers (integrations/higgs.py); theirs is the same integral."""
    grid = normal_grid(bits, 2)
    places, mass = lattice(step=0.025)
    off = mass @ np.square(places - grid[nearest(places.astype(np.float32), grid)]).sum(axis=1) / 2
    assert off == pytest.approx(authors, rel=6e-3)
    assert np.abs(turn(grid, places, mass) - grid).max() < 2e-2, "each point is the mean of what is nearest to it"


def test_a_rotation_is_orthogonal_and_makes_any_values_nearly_normal() -> None:
    signs = rotation(128)
    assert {*np.unique(signs)} == {-1, 1}
    assert (signs.astype(int) @ signs.T == 128 * np.eye(128)).all()
    values = np.zeros((1000, 128), np.float32)
    values[:, :16] = np.random.default_rng(0).laplace(size=(1000, 16))
    values /= np.sqrt(np.square(values).mean(axis=1, keepdims=True))
    turned = values @ signs.T
    assert kurtosis(values) > 15
    assert kurtosis(turned) == pytest.approx(3, abs=0.5)
    np.testing.assert_allclose(turned @ signs / 128, values, atol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_what_is_packed_is_the_nearest_point_of_each_group_in_as_many_bits(scheme: Scheme) -> None:
    rng = np.random.default_rng(0)
    matrix = (rng.laplace(size=(90, 96)) * rng.uniform(0.01, 10, (90, 1))).astype(np.float32)
    matrix[3, :32] = 0
    parts = packed(matrix, scheme)
    assert parts.size_bytes == scheme.size(matrix.shape) == matrix.size * scheme.bits // 8 + 2 * matrix.size // 32
    turn = np.eye(32) if scheme.grid == "uniform" else rotation(32) / np.sqrt(32)
    groups = matrix.reshape(-1, 32) @ turn.T
    scales = parts.scales.reshape(-1, 1).astype(np.float64)
    if scheme.grid == "uniform":
        high = 2 ** (scheme.bits - 1)
        steps = np.abs(groups).max(axis=1, keepdims=True) / high
        losses = [
            np.square(np.clip(np.rint(groups / (part * steps + 1e-30)), *reach) * part * steps - groups).sum(axis=1)
            for part in np.linspace(0.3, 1.2, 10)
            for reach in [(-high, high - 1), (1 - high, high)]
        ]
        np.testing.assert_allclose(
            np.square(restored(parts, scheme).reshape(-1, 32) - groups).sum(axis=1),
            np.min(losses, axis=0),
            rtol=1e-2,
            err_msg="the least that clipping leaves",
        )
    else:
        np.testing.assert_allclose(scales[:, 0], np.sqrt(np.square(groups).mean(axis=1)), rtol=1e-3)
    values = (groups / np.where(scales, scales, 1)).reshape(-1, 1, scheme.dimensions)
    best = np.square(values - scheme.points).sum(axis=2).argmin(axis=1)
    assert len({*best}) > 0.9 * len(scheme.points), "few codes are not met"
    expected = (scheme.points[best].reshape(-1, 32) * scales) @ turn
    got = restored(parts, scheme).reshape(-1, 32)
    # float32 may tip a value over that lies between two points
    assert np.isclose(got, expected, rtol=1e-3, atol=1e-4 * np.abs(scales)).all(axis=1).mean() > 0.99
    assert not got[3 * 3].any()


def test_by_the_relative_error_hadamard_and_pairs_pay() -> None:
    weights = np.random.default_rng(0).laplace(size=(256, 256)).astype(np.float32)
    for bits in (2, 3, 4):
        schemes = [Scheme(bits, grid) for grid in ("normal-2d", "normal-1d", "uniform")]
        errors = [relative_error(weights, restored(packed(weights, scheme), scheme)) for scheme in schemes]
        assert errors == sorted(errors)
        grid = normal_grid(bits, 1)
        samples = np.random.default_rng(1).normal(size=(100_000, 1)).astype(np.float32)
        assert errors[1] == pytest.approx(distortion(grid, samples), rel=0.08)
    assert [*uniform_grid(2)[:, 0]] == [-1, -0.5, 0, 0.5]


def restored_by_numpy(parent: Artifact, folder: Path, config: HiggsConfig) -> Artifact:
    """The parent with its large weights as they are after packing, in fp32."""
    model = onnx.load(parent.folder / "model.onnx")
    multiplied = {node.input[1] for node in model.graph.node if node.op_type in ("MatMul", "Gemm")}
    looked_up = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    scheme = Scheme(config.bits, config.grid, config.group_size)
    # For int8 a Gemm becomes a MatMul first, with the weight [outputs, inputs] turned over: rows are inputs then.
    turned = {node.input[1] for node in model.graph.node if node.op_type == "Gemm" and config.products == "int8"}
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.ndim == 2 and values.size >= LARGE and weight.name in multiplied | looked_up:
            rows = values.T if weight.name in turned else values
            fit = scheme.fits(rows.shape[1])
            made = restored(packed(rows, fit), fit)
            made = np.ascontiguousarray(made.T if weight.name in turned else made)
            weight.CopyFrom(numpy_helper.from_array(made, weight.name))
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((parent.folder / name).read_bytes())
    return Artifact(folder, seal(folder, replace(parent.manifest, deployable=("model.onnx",))))


def answers(artifact: Artifact) -> NDArray[np.float32]:
    """Logits of three lengths."""
    model, rng = logits.of(artifact, threads=1), np.random.default_rng(0)
    found = []
    for length in (3, 12, 40):
        ids = rng.integers(4, VOCABULARY, (2, length))
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        found.append(model({name: feeds[name] for name in artifact.manifest.signature.inputs}))
    return np.concatenate(found)


def optimized(artifact: Artifact, path: Path) -> onnx.ModelProto:
    """What ONNX Runtime computes with the engine's settings, after constants are folded."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path), 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "SessionOptions", lambda: options)
        session(artifact.folder / "model.onnx", 1)
    return onnx.load(path)


def onnx_bytes(artifact: Artifact) -> int:
    return int(artifact.manifest.files["model.onnx"]["bytes"])


def kernels(model: onnx.ModelProto) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in model.graph.node)


def integers(model: onnx.ModelProto) -> dict[str, NDArray[np.int8]]:
    """Weights of products in int8."""
    found = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
    return {name: values for name, values in found.items() if name.endswith("_quantized")}


@pytest.mark.parametrize(
    "config", [{"bits": 2, "grid": "uniform"}, {"bits": 3}, {"bits": 4, "grid": "normal-1d"}], ids=str
)
def test_products_in_fp32_are_those_of_the_restored_weights(
    config: dict[str, Any], parent: Artifact, tmp_path: Path
) -> None:
    asked = HiggsConfig(name="higgs", **config)
    one = quantize.run(parent, asked, make_context(tmp_path / "one"))
    wanted = restored_by_numpy(parent, tmp_path / "numpy", asked)
    np.testing.assert_allclose(answers(one), answers(wanted), rtol=0, atol=1e-5)
    manifest = Artifact.load(one.folder, verify=True).manifest
    kind = "int" if asked.grid == "uniform" else "grid"
    assert manifest.compute.precision == f"{kind}{asked.bits}"
    assert manifest.compute.batch_invariant
    details = manifest.details
    assert asked.bits + 0.5 <= details["average_bits"] < asked.bits + 1
    packed_bytes = details["product_bytes"] + details["embedding_bytes"]
    whole_bytes = details["product_bytes_fp32"] + details["embedding_bytes_fp32"]
    assert packed_bytes == pytest.approx(details["average_bits"] * whole_bytes / 32)
    # Products are in fp32 again, and tables of many rows are not.
    assert details["product_bytes_fp32"] < details["memory_bytes"] < onnx_bytes(parent)
    assert multiply_adds_a_token(one.folder / "model.onnx") == pytest.approx(
        multiply_adds_a_token(parent.folder / "model.onnx"), abs=SHARED
    )
    assert one.size_bytes < 0.6 * parent.size_bytes


def test_products_in_int8_are_those_of_dynamic_int8_and_nothing_is_left_to_restore(
    parent: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "FEW_ROWS", 2 * VOCABULARY)  # no rows are restored after they are looked up
    config = HiggsConfig(name="higgs", bits=3, products="int8")
    context = make_context(tmp_path / "int8")
    made = quantize.run(parent, config, context)
    assert not [*context.scratch.iterdir()]
    before = restored_by_numpy(parent, tmp_path / "numpy", config)
    dynamic = quantize.run(before, DynamicInt8Config(name="int8"), make_context(tmp_path / "dynamic"))
    got, wanted = optimized(made, tmp_path / "made.onnx"), optimized(dynamic, tmp_path / "dynamic.onnx")
    assert not {"BitShift", "ReduceMax", "Slice"} & {*kernels(got)} - {*kernels(wanted)}, "restored at each run"
    for kernel in ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMul", "QuantizeLinear"):
        assert kernels(got)[kernel] == kernels(wanted)[kernel], kernel
    assert {*integers(got)} == {*integers(wanted)}
    assert len(integers(got)) > made.manifest.details["packed_products"] > 0
    for name, values in integers(wanted).items():  # a sum in another order may tip a weight over to the next step
        steps = np.abs(integers(got)[name].astype(int) - values)
        assert steps.max() <= 1, name
        assert steps.mean() < 1e-3, name
    assert 0 < made.manifest.metrics["logits"]["mean_difference"] < made.manifest.metrics["logits"]["reference_std"]
    assert made.manifest.compute.precision == "grid3"
    work = [multiply_adds_a_token(each.folder / "model.onnx") for each in (made, parent)]
    assert work[0] == pytest.approx(work[1], abs=SHARED)
    assert not made.manifest.compute.batch_invariant
    assert made.size_bytes < dynamic.size_bytes


def test_embeddings_may_have_other_bits(parent: Artifact, tmp_path: Path) -> None:
    config = HiggsConfig(name="higgs", bits=4, embedding_bits=2)
    made = quantize.run(parent, config, make_context(tmp_path / "made"))
    same = quantize.run(parent, HiggsConfig(name="higgs"), make_context(tmp_path / "same"))
    assert made.manifest.compute.precision == "grid4", "of the products"
    assert made.size_bytes < same.size_bytes
    assert made.manifest.details["packed_embeddings"] >= 1


@pytest.mark.parametrize(("columns", "group"), [(384, 128), (352, 128), (528, 64), (96, 32), (312, 64), (13, 16)])
def test_rows_are_cut_or_filled_up_to_the_groups_of_fewest_bytes(columns: int, group: int) -> None:
    fit = Scheme(2).fits(columns)
    assert fit.group_size == group
    matrix = np.random.default_rng(0).normal(size=(300, columns)).astype(np.float32)
    parts = packed(matrix, fit)
    assert parts.size_bytes == fit.size(matrix.shape)
    got = restored(parts, fit)
    assert got.shape == matrix.shape
    assert np.square(got - matrix).sum() / np.square(matrix).sum() < 0.11


def test_a_model_of_small_matrices_is_refused(
    parent: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "SMALLEST", 10**9)
    with pytest.raises(StageError, match="no matrix of at least 4096 weights: there is nothing to gain"):
        quantize.run(parent, HiggsConfig(name="higgs"), make_context(tmp_path / "higgs"))
