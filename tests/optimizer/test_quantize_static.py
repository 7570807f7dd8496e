"""Static int8 for ONNX Runtime, SmoothQuant before it, and what both refuse."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from bantam.artifact import Artifact
from bantam.errors import BantamError, StageError
from optimizer import export, logits, quantize
from optimizer.config import ExportConfig
from optimizer.kinds import read_stage
from optimizer.onnx_session import activations
from optimizer.quantize import neighbours
from optimizer.quantize.onnx_graph import layer_of, opened, products_of
from optimizer.quantize.smooth import channel_factors, smooth
from optimizer.stage import RunContext
from serving.backend import onnx_program
from serving.backend.cores import int8_saturates
from serving.backend.engine import Engine
from tests.optimizer.tiny_models import CONFIGS, make_context, write_tiny_model

WIDE: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 64, "intermediate_size": 128},
    "modernbert": {"hidden_size": 64, "intermediate_size": 128},
}
LAYERS = 2 * 6 + 1
"""Linear layers of the tiny BERT, the pooler among them; the classifier is too small."""


def exported(model_type: str, folder: Path) -> Artifact:
    """Wide enough for its weights to be worth quantizing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, model_type, {**CONFIGS[model_type], **WIDE[model_type]})
        baseline = write_tiny_model(folder / "baseline", model_type)
    return export.run(baseline, ExportConfig(name="onnx-fp32", format="onnx"), make_context(folder / "onnx"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return exported("bert", tmp_path_factory.mktemp("bert"))


def made(parent: Artifact, folder: Path, context: RunContext | None = None, **keys: Any) -> Artifact:
    stage = {"stage": "quantize", "name": "int8", "method": "onnx-static-int8", "calibration_rows": 20, **keys}
    return quantize.run(parent, read_stage(stage), context or make_context(folder))


@pytest.fixture(scope="module")
def int8(bert: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return made(bert, tmp_path_factory.mktemp("int8") / "int8")


@pytest.mark.parametrize(
    "keys",
    [
        {"calibration": "moving-average", "activations": "symmetric"},
        {"calibration": "percentile", "weights": "tensor"},
        {"calibration": "entropy"},
        {"calibration": "mse", "smooth": 0.5},
    ],
    ids=lambda keys: keys["calibration"],
)
def test_it_is_small_and_close_to_its_parent(keys: dict[str, Any], bert: Artifact, tmp_path: Path) -> None:
    artifact = made(bert, tmp_path / "int8", **keys)
    manifest = Artifact.load(artifact.folder, verify=True).manifest
    assert manifest.compute.precision == "int8"
    assert manifest.compute.weights.granularity == keys.get("weights", "channel")
    assert manifest.compute.activations.scheme == keys.get("activations", "asymmetric")
    assert manifest.compute.activations.dynamic is False
    assert manifest.details["int8_products"] == LAYERS
    assert manifest.details["calibration_texts"] == 20
    assert manifest.files["model.onnx"]["bytes"] < 0.5 * bert.manifest.files["model.onnx"]["bytes"]
    figures = manifest.metrics["logits"]
    assert 0 < figures["mean_difference"] < 0.15 * figures["reference_std"]
    assert not list((tmp_path / "int8-scratch").iterdir())


def test_it_is_the_same_each_time_and_follows_its_texts(int8: Artifact, bert: Artifact, tmp_path: Path) -> None:
    assert made(bert, tmp_path / "again").digest == int8.digest
    assert made(bert, tmp_path / "others", seed=1).digest != int8.digest


def test_all_products_run_in_integers_and_fused_attention_and_gelu_stay(int8: Artifact, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(int8.folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    (batch, *_) = logits.encode(int8.folder, int8.manifest.signature, ["w1 w2 w3"])
    session.run(None, dict(batch))
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = Counter(event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time"))
    assert ran["MatMulIntegerToFloat"] == LAYERS
    assert ran["MultiHeadAttention"] == 2
    assert ran["Gelu"] == 2
    assert ran["LayerNormalization"] == 5
    assert not ran["DequantizeLinear"]
    assert ran["QuantizeLinear"] == 2 * 4 + 2, "one for query, key and value; the last layer's query has one of its own"
    assert ran["MatMul"] + ran["Gemm"] + ran["FusedGemm"] == 1, "the classifier"


@pytest.mark.parametrize("threads", [1, 3])
def test_texts_in_batches_keep_the_scores_that_they_have_alone_to_the_last_bit(int8: Artifact, threads: int) -> None:
    texts = [" ".join(f"w{i}" for i in range(start, start + words)) for words in range(1, 40) for start in (0, 20)]
    engine = Engine(int8.folder, threads=threads)
    alone = np.concatenate([engine.probabilities([text]) for text in texts])
    np.testing.assert_array_equal(engine.probabilities(texts), alone)
    assert engine.placement.micro_batch > 1
    assert np.ptp(alone, axis=0).max() > 1e-3


def test_a_model_whose_texts_depend_on_others_is_run_text_by_text(
    bert: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "differ", lambda *_: 2 * neighbours.SAME)
    compute = made(bert, tmp_path / "int8").manifest.compute
    assert (compute.batch_invariant, compute.padded_to) == (False, 1)


def test_the_difference_to_a_text_alone_is_found(bert: Artifact) -> None:
    signature = replace(bert.manifest.signature, max_length=32)
    batches = [{name: np.ones((1, tokens), np.int64) for name in signature.inputs} for tokens in (3, 8, 14)]

    def mean_of_the_batch(batch: logits.Batch) -> np.ndarray:
        return np.full((len(batch["input_ids"]), 2), batch["attention_mask"].mean(), np.float32)

    # Alone 3 of 4, 8 of 8 and 14 of 16 tokens; together 25 of 48.
    found = neighbours.differ(mean_of_the_batch, signature, batches)
    assert found == pytest.approx(1 - 25 / 48)
    own = neighbours.differ(lambda batch: batch["attention_mask"].sum(1, keepdims=True), signature, batches)
    assert own == 0


def test_excluded_layers_stay_fp32(int8: Artifact, bert: Artifact, tmp_path: Path) -> None:
    part = made(bert, tmp_path / "part", exclude=["bert.encoder.layer.0.output", "*pooler*"], smooth=0.5)
    assert part.manifest.details["fp32_layers"] == ["bert.encoder.layer.0.output.dense", "bert.pooler.dense"]
    assert part.manifest.details["smoothed_inputs"] == 10 - 2, "what stays fp32 is not smoothed"
    kinds = Counter(node.op_type for node in onnx.load(part.folder / "model.onnx").graph.node)
    assert kinds["MatMulIntegerToFloat"] == LAYERS - 2
    assert kinds["MatMul"] == 2 + 1
    assert part.size_bytes - int8.size_bytes > 2 * 3 * 64 * 64 - 2000


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [
        (
            ["*pooler*", "*.valve"],
            r"no layer \*\.valve\. Known: bert\.encoder\.layer\.\*\.attention.*bert\.pooler\.dense",
        ),
        (["*"], "nothing to quantize: 'onnx' has 13 layers"),
    ],
)
def test_what_excludes_nothing_or_everything_is_refused(
    exclude: list[str], expected: str, bert: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(BantamError, match=expected):
        made(bert, tmp_path / "int8", exclude=exclude)


def test_weights_in_a_file_beside_the_graph_give_the_same(bert: Artifact, tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    model, path = onnx.load(bert.folder / "model.onnx"), tmp_path / "beside/model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=1024)
    made_of = []
    for folder in (bert.folder, path.parent):
        graph = opened(replace(bert, folder=folder))
        texts: list[Any] = [{name: np.ones((1, 5), np.int64) for name in bert.manifest.signature.inputs}]
        products = products_of(graph.graph)
        smooth(graph, products[:3], 0.5, texts, folder=folder, threads=1)  # some in memory now, some in the file
        made_of.append([*activations(graph, folder, [node.output[0] for node in products], texts, threads=1)])
    for name, value in made_of[0][0].items():
        np.testing.assert_array_equal(made_of[1][0][name], value, name)


def test_a_quantized_parent_is_refused(int8: Artifact, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"onnx int8. Expected a parent of format onnx in fp32"):
        made(int8, tmp_path / "again")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"method": "openvino-static-int8", "calibration": "entropy"}, "'min-max', 'mean', 'percentile' or 'mse'"),
        ({"calibration": "mean"}, "'min-max', 'moving-average', 'percentile', 'entropy' or 'mse'"),
        ({"smooth": 1.5}, "less than or equal to 1"),
        ({"smooth": 0.9, "weights": "tensor"}, "expected smooth = false beside it"),
        ({"method": "openvino-static-int8", "weights": "tensor"}, r"got smooth = 0\.95 and weights"),
        ({"method": "openvino-static-int8", "calibration_rows": 1001}, "expected at most 1,000"),
    ],
)
def test_what_a_runtime_does_not_have_is_refused_when_it_is_read(keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        read_stage({"stage": "quantize", "name": "int8", "method": "onnx-static-int8", **keys})


def test_fewer_texts_than_asked_for_are_said_and_none_are_refused(bert: Artifact, tmp_path: Path) -> None:
    lines: list[str] = []
    context = replace(make_context(tmp_path / "few"), log=lines.append)
    few = made(bert, tmp_path / "few", context, calibration_rows=500)
    assert few.manifest.details["calibration_texts"] == 40
    assert lines == ["int8: calibrated on 40 texts, of 500 asked for: there are no more"]
    context = make_context(tmp_path / "none")
    empty = replace(context.data.splits["train"], texts=("",) * 40)
    data = replace(context.data, splits={**context.data.splits, "train": empty})
    with pytest.raises(StageError, match="calibrates on training texts, of which none has a token"):
        made(bert, tmp_path / "none", replace(context, data=data))


@pytest.mark.parametrize(("model_type", "inputs", "folded"), [("bert", 10, 0), ("modernbert", 9, 3)])
def test_smoothing_changes_nothing_in_fp32_but_the_range_of_channels(
    model_type: str, inputs: int, folded: int, bert: Artifact, tmp_path: Path
) -> None:
    parent = bert if model_type == "bert" else exported(model_type, tmp_path)
    model = opened(parent)
    before = [node.op_type for node in model.graph.node]
    split = make_context(tmp_path / "texts").data.splits["train"]
    texts = logits.encode(parent.folder, parent.manifest.signature, split.texts)
    assert smooth(model, products_of(model.graph), 0.9, texts, folder=parent.folder, threads=1) == inputs
    after = [node.op_type for node in model.graph.node]
    assert after.count("Mul") - before.count("Mul") == inputs - folded, "a pre-norm's go into the normalization"
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    own = np.concatenate([session.run(["logits"], dict(text))[0] for text in texts])
    reference = logits.of(parent, threads=1)
    np.testing.assert_allclose(own, np.concatenate([reference(text) for text in texts]), rtol=0, atol=1e-5)
    read = sorted({node.input[0] for node in products_of(model.graph)})
    largest: dict[str, Any] = {}
    for values in activations(model, parent.folder, read, texts, threads=1):
        for name, value in values.items():
            largest[name] = np.maximum(largest.get(name, 0), np.abs(value).reshape(-1, value.shape[-1]).max(axis=0))
    assert all(each.max() < 3 * np.median(each) for each in largest.values()), "no channel stands out"


def test_smoothing_factors_are_those_of_the_paper() -> None:
    activation, weight = np.array([8, 2, 0, 3], np.float32), np.array([2, 2, 1, 0], np.float32)
    np.testing.assert_allclose(channel_factors(activation, weight, 0.5), [2, 1, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(channel_factors(activation, weight, 1.0), [8, 2, 1, 1], rtol=1e-6)
    # Of a channel that is nearly dead here and alive later, no more than 1e5 times.
    assert channel_factors(np.array([1e-12], np.float32), np.array([1], np.float32), 0.9) == np.float32(1e-5)


def test_dynamic_int8_is_smoothed_too(bert: Artifact, tmp_path: Path) -> None:
    artifact = made(bert, tmp_path / "int8", method="onnx-dynamic-int8", smooth=0.9)
    assert artifact.manifest.details["smoothed_inputs"] == 10
    figures = artifact.manifest.metrics["logits"]
    assert 0 < figures["mean_difference"] < 0.15 * figures["reference_std"]


@pytest.mark.parametrize(
    ("cpuinfo", "exact"),
    [
        ("flags : fpu avx2 fma", ["1"]),
        ("flags : fpu avx2 fma avx512f avx512bw", ["1"]),
        ("flags : fpu avx2 fma avx512f avx512_vnni", []),
        ("flags : fpu avx2 avx_vnni", []),
        ("flags : fpu sse4_1", []),
        ("Features : fp asimd", []),
        (None, []),
    ],
)
def test_only_where_int8_saturates_a_session_computes_it_otherwise(
    cpuinfo: str | None, exact: list[str], int8: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may not elsewhere: ONNX Runtime (1.31) does as it is told on any CPU, and takes 2.5 times as long."""
    path = tmp_path / "cpuinfo"
    if cpuinfo:
        path.write_text(f"processor : 0\n{cpuinfo}\n", encoding="utf-8")
    monkeypatch.setattr(onnx_program, "int8_saturates", lambda: int8_saturates(path))
    asked: list[str] = []

    class Options(onnxruntime.SessionOptions):  # type: ignore[misc]
        def add_session_config_entry(self, key: str, value: str) -> None:
            asked.extend([value] if key == "session.x64quantprecision" else [])
            super().add_session_config_entry(key, value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    scores = Engine(int8.folder, threads=1).probabilities(["w1 w2 w3"])
    assert asked == exact
    monkeypatch.undo()
    np.testing.assert_allclose(scores, Engine(int8.folder, threads=1).probabilities(["w1 w2 w3"]), atol=1e-6)


def test_layers_have_their_modules_names(bert: Artifact) -> None:
    names = {layer_of(node.input[1]) for node in products_of(opened(bert).graph)}
    parts = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
             "intermediate.dense", "output.dense")  # fmt: skip
    assert names == {f"bert.encoder.layer.{i}.{part}" for i in range(2) for part in parts} | {"bert.pooler.dense"}
