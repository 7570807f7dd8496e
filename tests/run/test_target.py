"""A run on a GPU: what is refused where there is none, which variant runs where, and what texts cost."""

from __future__ import annotations

import json
import os
import sys
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from bantam.artifact import Artifact, Compute, Numbers
from bantam.errors import RecipeError, UserError
from bantam.run import judge, record
from bantam.run.choose import Choice
from bantam.run.evidence import evidence
from bantam.run.prepare import default_recipe, prepare, run_name
from bantam.run.request import OptimizeRequest
from bantam.run.target import check_cuda, check_stages, check_target
from bantam.run.worker import Worker, placed
from optimizer.recipe import load_recipe
from serving import tritonserver
from tests.run.made_up import artifact, make_run

HALF = Compute(weights=Numbers("float", 16), activations=Numbers("float", 16), devices=("cpu", "cuda"))
STEP = ("it", "export")


def test_who_names_no_recipe_gets_the_one_for_the_target() -> None:
    on_gpu = OptimizeRequest(target="gpu")
    assert [default_recipe(OptimizeRequest()), default_recipe(on_gpu)] == ["int8", "gpu"]
    assert default_recipe(on_gpu, "decoder") == "decoder"
    assert run_name(on_gpu) == "minilm-goemotions-ekman-gpu-quick"


def test_the_baseline_s_export_in_fp32_is_the_safe_one() -> None:
    recipe = load_recipe("gpu")
    assert recipe.export_of("baseline") == "onnx-fp32"
    assert [stage.name for stage in recipe.stages if stage.measure] == [
        *("baseline", "torch-fp16", "torch-compile", "onnx-fp16", "tensorrt-fp16", "onnx-fp32", "onnx-int8")
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_a_gpu_is_told_before_any_work(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(RecipeError, match=r"Got --target gpu, and PyTorch .* sees no GPU; expected an NVIDIA GPU"):
        prepare(OptimizeRequest(target="gpu", build=tmp_path, repository=tmp_path), said.append)
    assert said == []


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="it has CUDA")
def test_so_is_an_onnx_runtime_that_runs_nothing_on_cuda() -> None:
    on_gpu = OptimizeRequest(target="gpu")
    with pytest.raises(RecipeError, match=r"'onnx-fp16' .* of \S+ has none: CPUExecutionProvider; expected CUDA"):
        check_stages(load_recipe("gpu"), on_gpu)
    for recipe in ("int8", "decoder"):  # what a decoder gets without a name
        check_stages(load_recipe(recipe), on_gpu)
    check_stages(load_recipe("gpu"), OptimizeRequest())


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="it has CUDA")
@pytest.mark.skipif(not tritonserver.serving_python().exists(), reason="no serving environment")
def test_so_is_a_serving_environment_without_cuda() -> None:
    installation = tritonserver.find(tritonserver.serving_python())
    with pytest.raises(RecipeError, match=r"the ONNX Runtime of \S+ has none: CPUExecutionProvider; expected CUDA"):
        check_cuda(tritonserver.serving_python(), tritonserver.environment(installation), "onnx-fp16")


def test_a_python_without_onnx_runtime_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere cannot be asked for its ONNX Runtime: .* Run `make setup"):
        check_cuda(tmp_path / "nowhere", {}, "onnx-fp16")
    venv.create(tmp_path / "bare", symlinks=True)
    with pytest.raises(RecipeError, match=r"has none: ModuleNotFoundError: No module named '\w+'; expected CUDA"):
        check_cuda(tmp_path / "bare" / "bin" / "python", {}, "onnx-fp16")


@pytest.mark.gpu
def test_where_onnx_runtime_runs_on_a_gpu_nothing_is_said() -> None:
    check_cuda(sys.executable, os.environ, "onnx-fp16")
    assert "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def test_prices_that_nothing_uses_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"Got --price gpu= without --target gpu, where nothing runs on a GPU"):
        check_target(OptimizeRequest(price=["gpu=0.9"]))
    with pytest.raises(UserError, match=r"Got --price cpu=0\.2 and another one of cpu; expected one\."):
        check_target(OptimizeRequest(price=["cpu=0.1", "cpu=0.2"]))
    check_target(OptimizeRequest(price=["cpu=0.1"]))


def test_what_was_made_for_a_gpu_runs_there_and_pytorch_runs_anywhere(tmp_path: Path) -> None:
    kinds = {
        "half": artifact(tmp_path, "half", "onnx", HALF, STEP),
        "int8": artifact(tmp_path, "int8", "onnx", Compute(), STEP),
        "base": artifact(tmp_path, "base", "hf", Compute(), STEP),
        "nf4": artifact(tmp_path, "nf4", "hf-quantized", Compute(), STEP),
    }
    assert {name: placed(each, "cuda") for name, each in kinds.items()} == {
        "half": "cuda",
        "int8": "cpu",
        "base": "cuda",
        "nf4": "cpu",
    }
    assert {placed(each, "cpu") for each in kinds.values()} == {"cpu"}


def test_what_runs_in_fp16_on_a_gpu_may_be_further_apart(tmp_path: Path) -> None:
    half, single = artifact(tmp_path, "half", "onnx", HALF, STEP), artifact(tmp_path, "fp32", "onnx", Compute(), STEP)
    run = make_run(tmp_path)
    assert [run.tolerance(each) for each in (half, single)] == [1e-3, 1e-3]
    run.request = replace(run.request, target="gpu")
    assert [run.tolerance(each) for each in (half, single)] == [1e-2, 1e-3]
    run.scored["int8"] = replace(run.scored["int8"], artifact=half)
    run.answers["int8", "dev"] = run.scored["int8"].dev + np.float32(5e-3)
    assert judge.problem(run, "int8") is None
    assert json.loads(evidence(run, "int8"))["device"] == "cuda"
    run.request = replace(run.request, target="cpu")
    assert str(judge.problem(run, "int8")).startswith("the server's scores differ from those in process by up to 5.0e")


def test_a_worker_says_how_many_texts_of_a_list_it_does_a_second_and_on_what(tiny_artifact: Artifact) -> None:
    with Worker(tiny_artifact, threads=1, micro_batch=4) as worker:
        assert worker.throughput(["i love it"] * 20, 0.05) > 0
        assert worker.providers() == ("CPUExecutionProvider",)
        assert np.isfinite(worker.timed(["i love it"]).latencies_ms).all()


@pytest.mark.parametrize("text", ["cpu", "tpu=1", "cpu=", "cpu=0", "cpu=0.0", "cpu=-1", "cpu=nan", "cpu=1e3", "=1"])
def test_a_price_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected cpu= or gpu= and a price above 0, such as cpu="):
        _ = OptimizeRequest(price=[text]).prices


def test_prices_and_what_texts_cost_are_in_the_record(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.request = OptimizeRequest(repository=tmp_path, build=tmp_path, name="it", price=["cpu=.36", "gpu=0.9"])
    run.measured["int8"] = replace(run.measured["int8"], batch_texts_per_s=1000.0)
    found = record.report(run, Choice("int8", "it is fast", gain=True))
    assert found.prices == {"cpu": 0.36, "gpu": 0.9}
    int8 = found.variant("int8")
    assert (int8.device, int8.cost_per_million) == ("cpu", 0.1)
    assert int8.in_process
    assert int8.in_process.batch_texts_per_s == 1000.0
    assert found.variant("baseline").cost_per_million is None


def test_without_a_price_and_a_gpu_the_record_is_as_it_was(tmp_path: Path) -> None:
    found = record.report(make_run(tmp_path), Choice("int8", "it is fast", gain=True))
    assert (found.prices, found.variant("int8").device, found.variant("int8").cost_per_million) == (None, None, None)
