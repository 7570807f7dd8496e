"""Models on a GPU: what is asked of ONNX Runtime, what is said where it has none, and that one answers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from bantam.artifact import Artifact, Compute, Numbers
from serving.backend.engine import MICRO_BATCH, Engine, micro_batches, warm_shapes
from serving.backend.manifest import read_manifest
from serving.backend.onnx_program import session
from serving.backend.program import MAX_PADDED_TOKENS, Placement
from serving.backend.providers import (
    CPU,
    CUDA,
    TENSORRT,
    TENSORRT_LIBRARY,
    Provider,
    check,
    engine_cache,
    most_texts,
    providers,
    usable,
)

HALF = Compute(weights=Numbers("float", 16), activations=Numbers("float", 16), devices=("cpu", "cuda"))
ON_GPU = Placement("cuda", 2, 64)
ALL = (TENSORRT, CUDA, CPU)

MakeArtifact = Callable[..., Artifact]


@pytest.fixture
def plain(make_artifact: MakeArtifact) -> Artifact:
    """Made for GPUs, of standard operators."""
    return make_artifact(compute=HALF, details={"fused_attention": 0})


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BANTAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tensorrt"


def test_on_the_cpu_it_is_the_cpu_alone(plain: Artifact, caches: Path) -> None:
    assert Engine(plain.folder).providers == (CPU,)
    assert not caches.exists()


def test_fused_attention_is_for_cuda_alone(make_artifact: MakeArtifact, caches: Path) -> None:
    for details in ({"fused_attention": 6}, {"quantizer": "whatever"}):
        manifest = read_manifest(make_artifact(compute=HALF, details=details).folder)
        assert [name for name, _ in providers(ON_GPU, manifest, ALL)] == [CUDA, CPU]
    assert not caches.exists()


def test_standard_operators_are_for_tensorrt_where_it_is_there(plain: Artifact, caches: Path) -> None:
    manifest = read_manifest(plain.folder)
    assert [name for name, _ in providers(ON_GPU, manifest, (CUDA, CPU))] == [CUDA, CPU]
    asked = providers(ON_GPU, manifest, ALL)
    assert [name for name, _ in asked] == [TENSORRT, CUDA, CPU]
    options = asked[0][1]
    assert options["trt_profile_min_shapes"] == "input_ids:1x1,attention_mask:1x1"
    assert options["trt_profile_opt_shapes"] == "input_ids:64x64,attention_mask:64x64"
    assert (
        options["trt_profile_max_shapes"]
        == f"input_ids:64x{manifest.max_length},attention_mask:64x{manifest.max_length}"
    )
    assert Path(options["trt_engine_cache_path"]) == caches / manifest.weights[:16]
    assert Path(options["trt_timing_cache_path"]) == caches, "other versions gain from it"
    for folder in (caches, caches / manifest.weights[:16]):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_switches_of_tensorrt_are_spelled_as_python_s_front_of_onnx_runtime_reads_them(
    plain: Artifact, caches: Path
) -> None:
    # onnxruntime_pybind_state.cc: "The value for the key 'trt_fp16_enable' should be 'True' or 'False'".
    options = providers(ON_GPU, read_manifest(plain.folder), ALL)[0][1]
    switches = {name: value for name, value in options.items() if name.endswith(("_enable", "_fallback"))}
    assert switches == dict.fromkeys(
        (
            "trt_fp16_enable",
            "trt_layer_norm_fp32_fallback",
            "trt_engine_cache_enable",
            "trt_timing_cache_enable",
        ),
        "True",
    )


def test_tensorrt_is_asked_for_only_where_its_library_is() -> None:
    try:
        ctypes.CDLL(TENSORRT_LIBRARY)
    except OSError:
        assert usable(ALL) == [CUDA, CPU]
    else:
        assert usable(ALL) == [*ALL]
    assert usable((CUDA, CPU)) == [CUDA, CPU]


def test_a_session_goes_on_with_no_fewer_providers_when_one_fails(
    plain: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    broken: Any = [(CPU, "no options")]
    with pytest.raises(ValueError, match="provider"):
        session(plain.folder / "model.onnx", 1, broken)
    assert "Falling back" not in capfd.readouterr().out


def test_the_profile_holds_every_shape_that_the_engine_runs(plain: Artifact, caches: Path) -> None:
    manifest = read_manifest(plain.folder)
    largest = providers(ON_GPU, manifest, ALL)[0][1]["trt_profile_max_shapes"]
    texts, tokens = map(int, largest.split(",")[0].removeprefix("input_ids:").split("x"))
    shapes = warm_shapes(ON_GPU, 16, manifest.max_length)
    for batch in micro_batches([manifest.max_length] * 200, ON_GPU.micro_batch, 16, most_tokens=10**9):
        shapes.append((len(batch), manifest.max_length))
    assert max(rows for rows, _ in shapes) == texts
    assert max(length for _, length in shapes) == tokens


@pytest.mark.parametrize(("longest", "texts"), [(64, 64), (512, 64), (514, 63), (8192, 4), (100_000, 1)])
def test_the_largest_shape_of_tensorrt_is_within_the_bound_of_a_run(
    plain: Artifact, make_artifact: MakeArtifact, longest: int, texts: int
) -> None:
    fused = make_artifact(compute=HALF, details={"fused_attention": 6})
    manifest, other = (read_manifest(each.folder)._replace(max_length=longest) for each in (plain, fused))
    assert most_texts(MICRO_BATCH["cuda"], manifest) == texts
    assert texts == 1 or texts * longest <= MAX_PADDED_TOKENS["cuda"]
    assert most_texts(MICRO_BATCH["cuda"], other) == MICRO_BATCH["cuda"], "CUDA takes any shape"


def test_other_weights_have_other_engines(make_artifact: MakeArtifact, plain: Artifact, caches: Path) -> None:
    other = make_artifact(compute=HALF, details={"fused_attention": 0}, labels=("joy", "anger"))
    folders = {engine_cache(read_manifest(each.folder)) for each in (plain, other)}
    assert len(folders) == 2
    assert {folder.parent for folder in folders} == {caches}


def test_a_cache_that_cannot_be_made_is_said(plain: Artifact, caches: Path) -> None:
    caches.parent.write_text("a file in its way", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"cannot be written to, expected a folder for TensorRT's engines\. Name one in"
    ):
        providers(ON_GPU, read_manifest(plain.folder), ALL)


def test_so_is_the_home_of_who_has_none(plain: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANTAM_CACHE", "~nobody-of-this-name/cache")
    with pytest.raises(ValueError, match=r"cannot be written to, expected a folder for TensorRT's engines"):
        engine_cache(read_manifest(plain.folder))


def test_engines_that_others_may_write_are_not_run(plain: Artifact, caches: Path) -> None:
    manifest = read_manifest(plain.folder)
    folder = engine_cache(manifest)
    for others in (folder, folder.parent):
        others.chmod(0o770)
        with pytest.raises(ValueError, match=r"with mode 770; expected one that user \d+ owns and nobody else may"):
            engine_cache(manifest)
        others.chmod(0o755)
    assert engine_cache(manifest) == folder


@pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this ONNX Runtime has CUDA")
def test_an_onnx_runtime_without_cuda_is_refused(plain: Artifact) -> None:
    with pytest.raises(ValueError, match=r"has .*CPUExecutionProvider; expected CUDAExecutionProvider\. Install"):
        Engine(plain.folder, device="cuda")


def test_a_session_that_fell_back_is_refused(plain: Artifact) -> None:
    used = ort.InferenceSession(str(plain.folder / "model.onnx"), providers=["CPUExecutionProvider"]).get_providers()
    cuda: list[Provider] = [(CUDA, {}), (CPU, {})]
    tensorrt: list[Provider] = [(TENSORRT, {}), *cuda]
    with pytest.raises(ValueError, match=r"runs the model on CPUExecutionProvider; expected CUDAExecutionProvider"):
        check(cuda, used)
    with pytest.raises(ValueError, match=rf"asked for {TENSORRT}, and runs the model on {CUDA}, {CPU}"):
        check(tensorrt, [CUDA, CPU])
    check(cuda, [CUDA, CPU])
    check(tensorrt, ALL)
    assert used == [CPU]


def test_a_gpu_gets_larger_runs_of_rounded_lengths() -> None:
    assert MICRO_BATCH["cuda"] > MICRO_BATCH["cpu"]
    assert [len(batch) for batch in micro_batches([20] * 100, 64, 16, most_tokens=32768)] == [64, 36]
    assert [len(batch) for batch in micro_batches([500] * 100, 64, 16, most_tokens=32768)] == [64, 36]
    assert warm_shapes(ON_GPU, 1, 512) == []
    shapes = warm_shapes(ON_GPU, 16, 512)
    assert ((1, 512) in shapes, (64, 256) in shapes, (64, 272) in shapes) == (True, True, False)


@pytest.mark.gpu
def test_it_answers_on_the_gpu_as_on_the_cpu(plain: Artifact, caches: Path) -> None:
    texts = ["i love it", "hate", "", "love " * 200] * 40
    engine = Engine(plain.folder, device="cuda")
    assert engine.providers[0] == usable(ALL)[0], "the graph is of standard operators"
    scores = engine.probabilities(texts)
    np.testing.assert_allclose(scores, Engine(plain.folder).probabilities(texts), atol=1e-3)
