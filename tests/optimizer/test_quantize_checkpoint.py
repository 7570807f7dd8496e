"""PyTorch checkpoints in fewer bits: written without pickle, read by transformers, evaluated like the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from bantam.artifact import LAYOUTS, Artifact
from bantam.errors import StageError
from bantam.run.worker import Worker
from optimizer import quantize
from optimizer.config import ExportConfig, QuantizeConfig
from optimizer.kinds import check_fit
from optimizer.quantize.bitsandbytes_int8 import LlmInt8Config
from optimizer.quantize.bitsandbytes_nf4 import NormalFloatConfig
from optimizer.quantize.torch_bf16 import Bfloat16Config
from optimizer.quantize.torch_fp16 import Float16Config
from optimizer.quantize.torchao_int4 import TorchaoInt4Config
from optimizer.quantize.torchao_int8 import TorchaoInt8Config
from optimizer.reference import Reference
from tests.optimizer.tiny_models import CONFIGS, make_context, write_tiny_classifier

CHECKPOINTS = [
    LlmInt8Config(name="llm-int8"),
    NormalFloatConfig(name="nf4"),
    TorchaoInt8Config(name="torchao-int8"),
    TorchaoInt4Config(name="torchao-int4"),
]
BF16 = Bfloat16Config(name="bf16")
FP16 = Float16Config(name="fp16")
EACH = pytest.mark.parametrize("config", CHECKPOINTS, ids=lambda config: config.method)
ENCODER = pytest.mark.parametrize("parent", ["bert"], indirect=True)
"""For what starts a process or a compiler, and loads the model as the other tests do."""
HEADS = {"bert": ("classifier", "bert.pooler"), "llama": ("score",)}
WIDE = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11 w12", "w3 w3 w1"]


@pytest.fixture(scope="module", params=sorted(HEADS))
def parent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Wide enough for the groups of all methods."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, request.param, {**CONFIGS[request.param], **WIDE})
        return write_tiny_classifier(tmp_path_factory.mktemp(request.param) / "baseline", request.param)


@EACH
def test_it_is_smaller_close_to_its_parent_and_the_same_each_time(
    config: QuantizeConfig, parent: Artifact, tmp_path: Path
) -> None:
    one = quantize.run(parent, config, make_context(tmp_path / "one"))
    two = quantize.run(parent, config, make_context(tmp_path / "two"))
    assert one.digest == two.digest
    loaded = Artifact.load(one.folder, verify=True).manifest
    assert (loaded.layout, one.servable, LAYOUTS[loaded.layout].trainable) == ("hf-quantized", False, False)
    assert loaded.compute.precision == {"nf4": "nf4", "torchao-int4": "int4"}.get(config.name, "int8")
    assert set(loaded.files) == set(loaded.deployable)
    assert {Path(name).suffix for name in loaded.files} == {".json", ".safetensors"}
    figures = loaded.metrics["logits"]
    assert 0 < figures["mean_difference"] < 0.25 * figures["reference_std"]
    before, after = (load_file(each.folder / "model.safetensors") for each in (parent, one))
    linear = sum(w.nbytes for name, w in before.items() if w.ndim == 2 and "layer" in name)
    rest = sum(w.nbytes for name, w in after.items() if "layer" not in name)
    share = {"nf4": 0.25, "torchao-int4": 0.4}.get(config.name, 0.3)
    assert sum(w.nbytes for w in after.values()) - rest < share * linear + 10_000  # norms, biases, scales
    layers = 2 * (7 if any("mlp" in name for name in before) else 6)
    assert loaded.details["quantized_layers"] == layers


@EACH
def test_the_head_is_left_as_it_was_by_the_byte(config: QuantizeConfig, parent: Artifact, tmp_path: Path) -> None:
    made = quantize.run(parent, config, make_context(tmp_path / "made"))
    before, after = (load_file(each.folder / "model.safetensors") for each in (parent, made))
    heads = next(heads for heads in HEADS.values() if any(name.startswith(heads) for name in before))
    kept = [name for name in before if name.startswith(heads)]
    assert kept
    for name in kept:
        assert (after[name].dtype, after[name].tobytes()) == (before[name].dtype, before[name].tobytes()), name
    loaded = Reference.load(made.folder).model.state_dict()
    for name in kept:
        assert loaded[name].numpy().tobytes() == before[name].tobytes(), name


@ENCODER
@pytest.mark.parametrize("config", [*CHECKPOINTS, BF16, FP16], ids=lambda config: config.method)
def test_a_worker_scores_it_as_the_reference_does(config: QuantizeConfig, parent: Artifact, tmp_path: Path) -> None:
    made = quantize.run(parent, config, make_context(tmp_path / "made"))
    expected = Reference.load(made.folder, threads=1).probabilities(TEXTS)
    with Worker(made, threads=1, micro_batch=8) as worker:
        np.testing.assert_allclose(worker.probabilities(TEXTS), expected, rtol=0, atol=1e-6)
    assert np.abs(expected - Reference.load(parent.folder).probabilities(TEXTS)).max() < 0.2
    assert np.ptp(expected, axis=0).max() > 0.05


def test_fp16_is_half_of_fp32_and_computed_in(parent: Artifact, tmp_path: Path) -> None:
    made = quantize.run(parent, FP16, make_context(tmp_path / "made"))
    assert (made.manifest.kind, made.servable, made.manifest.compute.devices) == (
        "pytorch fp16",
        False,
        ("cpu", "cuda"),
    )
    reference = Reference.load(made.folder)
    assert {weight.dtype for weight in reference.model.parameters()} == {torch.float16}
    difference = np.abs(reference.probabilities(TEXTS) - Reference.load(parent.folder).probabilities(TEXTS)).max()
    assert 1e-6 < difference < 5e-3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")  # torch's compiler about torch
@ENCODER
def test_a_compiled_model_is_compiled_where_it_is_read(parent: Artifact, tmp_path: Path) -> None:
    made = quantize.run(parent, FP16.model_copy(update={"compile": True}), make_context(tmp_path / "made"))
    assert made.manifest.details["compile"] is True
    reference = Reference.load(made.folder, threads=1)
    assert reference.model._compiled_call_impl is not None
    eager = quantize.run(parent, FP16, make_context(tmp_path / "eager"))
    expected = Reference.load(eager.folder, threads=1).probabilities(TEXTS)
    np.testing.assert_allclose(reference.probabilities(TEXTS), expected, rtol=0, atol=5e-3)


def test_bf16_is_half_of_fp32_and_computed_in(parent: Artifact, tmp_path: Path) -> None:
    made = quantize.run(parent, BF16, make_context(tmp_path / "made"))
    assert (made.manifest.kind, made.servable) == ("pytorch bf16", False)
    before, after = ((each.folder / "model.safetensors").stat().st_size for each in (parent, made))
    assert 0.49 * before < after < 0.6 * before
    reference = Reference.load(made.folder)
    assert {weight.dtype for weight in reference.model.parameters()} == {torch.bfloat16}
    scores = reference.probabilities(TEXTS)
    difference = np.abs(scores - Reference.load(parent.folder).probabilities(TEXTS)).max()
    assert scores.dtype == np.float32
    assert 1e-5 < difference < 2e-2
    with pytest.raises(StageError, match="which is pytorch bf16"):
        quantize.run(made, CHECKPOINTS[0], make_context(tmp_path / "again"))


def test_scales_that_are_quantized_too_take_fewer_bytes(parent: Artifact, tmp_path: Path) -> None:
    config = NormalFloatConfig(name="nf4", double=False)
    single = quantize.run(parent, config, make_context(tmp_path / "single"))
    weights = load_file(single.folder / "model.safetensors")
    assert not any("nested" in name for name in weights)
    assert {w.dtype for name, w in weights.items() if name.endswith("absmax")} == {np.dtype(np.float32)}


def test_layers_that_a_group_does_not_divide_stay_fp32(parent: Artifact, tmp_path: Path) -> None:
    config = TorchaoInt4Config(name="torchao-int4", group_size=128)
    made = quantize.run(parent, config, make_context(tmp_path / "made"))
    assert made.manifest.details["quantized_layers"] == 2  # the way down from 128 neurons, in each block
    assert made.manifest.details["layers_left_fp32"] in (2 * 5, 2 * 6)


def test_a_model_without_linear_layers_is_refused_by_torchao(tmp_path: Path) -> None:
    gpt2 = write_tiny_classifier(tmp_path / "gpt2", "gpt2")  # has Conv1D in their place
    with pytest.raises(StageError, match=r"torchao finds no linear layer of 'gpt2' that it can quantize, of \d+"):
        quantize.run(gpt2, TorchaoInt8Config(name="torchao-int8"), make_context(tmp_path / "made"))
    made = quantize.run(gpt2, LlmInt8Config(name="llm-int8"), make_context(tmp_path / "int8"))
    assert made.manifest.details["quantized_layers"] == 2 * 4


def test_nothing_can_be_made_of_it(parent: Artifact, tmp_path: Path) -> None:
    made = quantize.run(parent, CHECKPOINTS[1], make_context(tmp_path / "made"))
    with pytest.raises(StageError, match="which is pytorch nf4"):
        quantize.run(made, CHECKPOINTS[0], make_context(tmp_path / "again"))
    export = ExportConfig(name="onnx", format="onnx", parent="nf4")
    with pytest.raises(ValueError, match="whose format is pytorch in fewer bits than fp32; expected pytorch in fp32"):
        check_fit(export, CHECKPOINTS[1])


def test_what_libraries_say_while_they_are_imported_is_not_said() -> None:
    code = (
        "import optimizer.reference, bitsandbytes, torchao.quantization, logging; "
        "logging.getLogger('torchao').warning('something else')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.splitlines() == ["something else"]
