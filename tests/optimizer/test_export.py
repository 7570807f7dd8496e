from __future__ import annotations

import shutil
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from pydantic import ValidationError

from bantam.artifact import Artifact, Compute, Signature
from bantam.errors import ParityError, StageError
from optimizer import export, logits, quantize
from optimizer.config import ExportConfig
from optimizer.export import onnx as export_onnx
from optimizer.load.model import load_model
from optimizer.logits import Vocabulary
from optimizer.quantize.onnx_dynamic import DynamicInt8Config
from tests.optimizer.tiny_models import CONFIGS, make_context, write_tiny_model

ONNX = ExportConfig(name="onnx-fp32", stage="export", format="onnx")
OPENVINO = ExportConfig(name="openvino-fp32", stage="export", format="openvino")
INT8 = DynamicInt8Config(name="onnx-int8")

FUSED = ("bert", "distilbert", "roberta", "xlm-roberta", "albert", "electra")
FIRST_TOKEN = (*FUSED, "mpnet", "deberta-v2", "modernbert", "fnet")
"""They classify by the first token, the others by the last."""


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_tiny_model(tmp_path_factory.mktemp("bert") / "baseline", "bert")


@pytest.fixture(scope="module")
def bert_onnx(bert: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export.run(bert, ONNX, make_context(tmp_path_factory.mktemp("bert") / "onnx"))


def test_who_makes_onnx_alone_needs_no_openvino() -> None:
    code = "import sys, optimizer.export as export; export._writer('onnx'); assert 'openvino' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("model_type", CONFIGS)
def test_every_architecture_keeps_parity_in_both_formats_and_can_be_quantized(model_type: str, tmp_path: Path) -> None:
    parent = write_tiny_model(tmp_path / "baseline", model_type)
    exported = export.run(parent, ONNX, make_context(tmp_path / "onnx"))
    figures = exported.manifest.metrics["parity"]
    assert figures["max_difference"] < 1e-4
    assert figures["comparisons"] >= 28
    assert exported.manifest.details["fused_attention"] == (2 if model_type in FUSED else 0)
    assert (exported.manifest.details["first_token_only"] > 0) == (model_type in FIRST_TOKEN)
    assert "fusion_failed" not in exported.manifest.metrics
    int8 = quantize.run(exported, INT8, make_context(tmp_path / "int8"))
    assert int8.size_bytes < 0.75 * exported.size_bytes
    assert int8.manifest.metrics["logits"]["mean_difference"] < 0.1 * int8.manifest.metrics["logits"]["reference_std"]
    if model_type == "fnet":
        # OpenVINO (2026.4) computes another Fourier transform from ONNX's DFT than torch and ONNX Runtime do.
        with pytest.raises(ParityError, match="28 of 28 comparisons"):
            export.run(exported, OPENVINO, make_context(tmp_path / "openvino"))
        # Padding tokens move FNet itself, which has no attention mask; only whole batches can be compared.
        assert figures["padding_moves_reference"] > 0.01
    else:
        openvino = export.run(exported, OPENVINO, make_context(tmp_path / "openvino"))
        assert openvino.manifest.metrics["parity"]["max_difference"] < 1e-4
        assert figures["comparisons"] > 100
        assert figures["padding_moves_reference"] < 1e-4


def test_the_manifest_says_what_was_made_from_what(bert: Artifact, bert_onnx: Artifact) -> None:
    loaded = Artifact.load(bert_onnx.folder, verify=True).manifest
    assert (loaded.layout, loaded.compute.precision, loaded.random_weights) == ("onnx", "fp32", True)
    assert loaded.signature == bert.manifest.signature
    assert [entry["stage"] for entry in loaded.lineage] == ["finetune", "export"]
    assert loaded.lineage[-1]["config"]["format"] == "onnx"
    assert set(loaded.deployable) == {"model.onnx", "tokenizer.json", "tokenizer_config.json"} == set(loaded.files)


def test_the_graph_names_its_dimensions_and_carries_nothing_of_this_machine(bert_onnx: Artifact) -> None:
    path = bert_onnx.folder / "model.onnx"
    model = onnx.load(path)
    for value in model.graph.input:
        assert [dimension.dim_param for dimension in value.type.tensor_type.shape.dim] == ["batch", "tokens"]
        assert value.type.tensor_type.elem_type == onnx.TensorProto.INT64
    assert [output.name for output in model.graph.output] == ["logits"]
    assert not model.metadata_props
    content = path.read_bytes()
    for leak in (b"site-packages", str(Path.home()).encode(), str(bert_onnx.folder.parent).encode()):
        assert leak not in content


def test_the_same_input_gives_the_same_files(bert: Artifact, bert_onnx: Artifact, tmp_path: Path) -> None:
    again = export.run(bert, ONNX, make_context(tmp_path / "onnx"))
    assert again.manifest.files == bert_onnx.manifest.files
    assert again.digest == bert_onnx.digest
    first, second = (export.run(bert_onnx, OPENVINO, make_context(tmp_path / name)) for name in ("one", "two"))
    assert first.manifest.files == second.manifest.files


def test_openvino_straight_from_pytorch_goes_by_way_of_onnx(
    bert: Artifact, bert_onnx: Artifact, tmp_path: Path
) -> None:
    direct = export.run(bert, OPENVINO, make_context(tmp_path / "direct"))
    by_way = export.run(bert_onnx, OPENVINO, make_context(tmp_path / "by-way"))
    assert direct.manifest.files == by_way.manifest.files
    assert direct.manifest.compute == Compute()
    assert sorted(path.name for path in direct.folder.iterdir()) == [
        "manifest.json", "model.bin", "model.xml", "tokenizer.json", "tokenizer_config.json"
    ]  # fmt: skip


def test_bf16_is_told_to_the_runtime_and_bounded_more_loosely(bert_onnx: Artifact, tmp_path: Path) -> None:
    config = ExportConfig(name="openvino-bf16", stage="export", format="openvino", precision="bf16")
    artifact = export.run(bert_onnx, config, make_context(tmp_path / "bf16"))
    assert artifact.manifest.compute.precision == "bf16"
    assert artifact.manifest.compute.batch_invariant is False
    assert artifact.manifest.metrics["parity"]["tolerance"] > 1e-3


def test_a_fusion_that_changes_the_result_is_left_out(
    bert: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaging(model: ir.Model) -> tuple[ir.Model, int]:
        weight = model.graph.initializers["classifier.weight"]
        assert weight.const_value is not None
        weight.const_value = ir.tensor(weight.const_value.numpy() + 0.5, name="classifier.weight")
        return model, 2

    monkeypatch.setattr(export_onnx, "fuse_attention", damaging)
    said: list[str] = []
    artifact = export.run(bert, ONNX, replace(make_context(tmp_path / "onnx"), log=said.append))
    assert artifact.manifest.details["fused_attention"] == 0
    assert artifact.manifest.metrics["parity"]["max_difference"] < 1e-4
    assert "differs from its source" in artifact.manifest.metrics["fusion_failed"]
    assert len(said) == 1
    assert "without fused attention" in said[0]


def test_of_source_and_export_one_is_in_memory_at_a_time(
    bert: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    opened: list[tuple[str, int]] = []
    load, of = load_model, logits.of

    def loading(*args: Any, **options: Any) -> Any:
        model = load(*args, **options)
        alive.update(model.parameters())
        return model

    def opening(artifact: Artifact, **options: Any) -> Any:
        opened.append((artifact.manifest.layout, sum(parameter.numel() for parameter in alive)))
        return of(artifact, **options)

    monkeypatch.setattr("optimizer.load.model.load_model", loading)
    monkeypatch.setattr(export_onnx, "load_model", loading)
    monkeypatch.setattr(logits, "of", opening)
    export.run(bert, ONNX, make_context(tmp_path / "onnx"))
    assert opened == [("hf", 0), ("onnx", 0)]


def test_large_models_keep_their_weights_beside_the_graph(
    bert: Artifact, bert_onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_onnx, "LARGEST_FILE", 10_000)
    artifact = export.run(bert, ONNX, make_context(tmp_path / "onnx"))
    assert "model.onnx.data" in artifact.manifest.deployable
    assert (artifact.folder / "model.onnx").stat().st_size < 30_000
    assert artifact.size_bytes == pytest.approx(bert_onnx.size_bytes, rel=0.1)
    int8 = quantize.run(artifact, INT8, make_context(tmp_path / "int8"))
    assert "model.onnx.data" in int8.manifest.deployable
    assert int8.size_bytes < 0.75 * artifact.size_bytes


def test_an_operator_without_an_onnx_form_is_a_clear_error() -> None:
    class Odd(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            square = input_ids.float()[:, :, None] * attention_mask.float()[:, None, :]
            eigenvalues: torch.Tensor = torch.linalg.eigvals(square)
            return eigenvalues.real

    signature = Signature("single_label", ("a", "b"), ("input_ids", "attention_mask"), max_length=16)
    vocabulary = Vocabulary(np.arange(30), after=np.array([], dtype=np.int64))
    with pytest.raises(StageError, match=r"torch cannot export Odd to ONNX: .+\n?.*Choose another model\."):
        export_onnx._export(Odd().eval(), signature, vocabulary)


def test_a_parent_of_the_wrong_format_is_refused(bert_onnx: Artifact, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="Expected a parent of format pytorch in fp32"):
        export.run(bert_onnx, ONNX, make_context(tmp_path / "onnx"))
    assert not list((tmp_path / "onnx").iterdir())


@pytest.mark.parametrize("fuse", [True, False])
def test_fp16_is_for_gpus_and_runs_on_a_cpu_too(bert: Artifact, tmp_path: Path, fuse: bool) -> None:
    config = ExportConfig(name="onnx-fp16", format="onnx", precision="fp16", fuse_attention=fuse)
    made = export.run(bert, config, make_context(tmp_path / "fp16"))
    compute, figures = made.manifest.compute, made.manifest.metrics["parity"]
    assert (compute.precision, compute.devices, compute.batch_invariant) == ("fp16", ("cpu", "cuda"), True)
    assert 1e-6 < figures["max_difference"] < figures["tolerance"] == 2e-2
    assert figures["comparisons"] > 100
    graph = onnx.load(made.folder / "model.onnx").graph
    assert [output.type.tensor_type.elem_type for output in graph.output] == [onnx.TensorProto.FLOAT]
    assert {value.type.tensor_type.elem_type for value in graph.input} == {onnx.TensorProto.INT64}
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in graph.initializer if len(w.dims) == 2}
    assert {array.dtype for array in weights.values() if array.dtype.kind == "f"} == {np.dtype("float16")}
    constants = [onnx.numpy_helper.to_array(w) for w in graph.initializer if w.data_type == onnx.TensorProto.FLOAT16]
    assert all(np.isfinite(array).all() for array in constants), "no mask of minus infinity"
    assert ({node.domain for node in graph.node} == {""}) is not fuse
    assert made.manifest.details["fused_attention"] == (2 if fuse else 0)


def test_what_overflows_in_fp16_stays_in_fp32(bert: Artifact, tmp_path: Path) -> None:
    model = load_model(bert.folder)
    parts = dict(model.named_parameters())
    with torch.no_grad():  # beyond 65,504 between two products, as GELU of what is large is that, or 0
        parts["bert.encoder.layer.1.intermediate.dense.weight"].mul_(1e7)
        parts["bert.encoder.layer.1.output.dense.weight"].mul_(1e-7)
    shutil.copytree(bert.folder, tmp_path / "loud")
    model.save_pretrained(tmp_path / "loud")
    loud = replace(bert, folder=tmp_path / "loud")
    config = ExportConfig(name="onnx-fp16", format="onnx", precision="fp16")
    context = make_context(tmp_path / "fp16")
    made = export.run(loud, config, context)
    kept = made.manifest.details["fp32_nodes"]
    graph = onnx.load(made.folder / "model.onnx").graph
    kinds = [node.op_type for node in graph.node if node.name in kept]
    assert kinds.count("MatMul") == 2
    assert len(kept) < 8
    assert "MatMul" in {node.op_type for node in graph.node if node.name not in kept}
    halves = [weight for weight in graph.initializer if weight.data_type == onnx.TensorProto.FLOAT16]
    assert len([weight for weight in halves if len(weight.dims) == 2]) > 10


def test_what_is_in_fp16_is_no_parent(bert: Artifact, tmp_path: Path) -> None:
    half = replace(bert, manifest=replace(bert.manifest, layout="onnx", compute=export.COMPUTED["fp16"]))
    with pytest.raises(StageError, match=r"which is onnx fp16\. Expected a parent of format pytorch or onnx in fp32"):
        export.run(half, OPENVINO, make_context(tmp_path / "made"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"format": "openvino", "precision": "fp16"}, "asks for OpenVINO in fp16"),
        ({"format": "openvino", "fuse_attention": False}, "which is decided when its parent is exported"),
    ],
)
def test_what_is_onnx_s_own_is_refused_of_openvino(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ExportConfig(name="it", parent="baseline", **settings)


def test_onnx_in_bf16_is_no_config() -> None:
    with pytest.raises(ValidationError, match="asks for ONNX in bf16, whose kernels compute in fp32"):
        ExportConfig(name="onnx-bf16", stage="export", format="onnx", precision="bf16")


def test_a_damaged_weight_in_an_exported_model_is_caught(
    bert: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    intact = export_onnx.write

    def damaged(parent: Artifact, folder: Path, config: ExportConfig, *, fuse: bool) -> dict[str, Any]:
        details = intact(parent, folder, config, fuse=fuse)
        model = onnx.load(folder / "model.onnx")
        weight = next(w for w in model.graph.initializer if w.name == "classifier.weight")
        array = onnx.numpy_helper.to_array(weight).copy()
        array[0] += 0.5
        weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
        onnx.save(model, folder / "model.onnx")
        return details

    monkeypatch.setattr(export_onnx, "write", damaged)
    context = make_context(tmp_path / "onnx")
    with pytest.raises(ParityError) as error:
        export.run(bert, ONNX, context)
    assert "differs from its source in 124 of 124 comparisons" in str(error.value)
    assert not (context.folder / "manifest.json").exists()


def test_texts_are_encoded_at_their_real_lengths_and_cut(bert_onnx: Artifact) -> None:
    batches = logits.encode(bert_onnx.folder, bert_onnx.manifest.signature, ["w1 w2", "w5 " * 500])
    assert [batch["input_ids"].shape for batch in batches] == [(1, 2), (1, 64)]
    assert all(array.dtype == np.int64 for batch in batches for array in batch.values())
    assert set(batches[0]) == set(bert_onnx.manifest.signature.inputs)


def test_the_last_layer_computes_the_first_token_only(bert_onnx: Artifact) -> None:
    graph = onnx.shape_inference.infer_shapes(onnx.load(bert_onnx.folder / "model.onnx")).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    tokens = [shapes[node.output[0]][1] for node in graph.node if node.op_type == "Gelu"]
    # Two layers: the feed-forward part of the first sees all tokens, that of the second one.
    assert [dim.dim_param or dim.dim_value for dim in tokens] == ["tokens", 1]
