"""Whether what is asked for can run here, before any work is done."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from bantam.errors import RecipeError, ServerError
from bantam.run.request import OptimizeRequest
from optimizer.config import ExportConfig
from optimizer.recipe import Recipe
from serving import tritonserver

CUDA = "CUDAExecutionProvider"
PROBE = f"""
import sys, numpy, onnxruntime
onnxruntime.preload_dlls()
session = onnxruntime.InferenceSession(sys.stdin.buffer.read(), providers=["{CUDA}"], enable_fallback=0)
session.run(None, {{"x": numpy.ones((16, 16), numpy.float32)}})
print(*session.get_providers())
"""
"""Says where ONNX Runtime runs a graph that was to run on CUDA: a build for it lists CUDA without its libraries too."""
PROBE_TIMEOUT_S = 120.0


def check_target(request: OptimizeRequest) -> None:
    """Raise :class:`RecipeError` for prices that nothing uses, and for a GPU that PyTorch cannot use.

    :class:`UserError` for prices that are none.
    """
    prices = request.prices
    if request.target != "gpu":
        if "gpu" in prices:
            raise RecipeError(
                "Got --price gpu= without --target gpu, where nothing runs on a GPU; expected both or neither."
            )
        return
    import torch

    if not torch.cuda.is_available():
        raise RecipeError(
            f"Got --target gpu, and PyTorch {torch.__version__} sees no GPU; expected an NVIDIA GPU and a build for "
            "CUDA. `make setup TARGET=gpu` installs one, `bantam doctor` says what is missing; or leave --target out."
        )


def check_stages(recipe: Recipe, request: OptimizeRequest) -> None:
    """Raise :class:`RecipeError` if what a recipe makes for a GPU could not run on one, here or in the server."""
    halves = [stage.name for stage in recipe.stages if isinstance(stage, ExportConfig) and stage.precision == "fp16"]
    if request.target != "gpu" or not halves:
        return
    check_cuda(sys.executable, os.environ, halves[0])
    try:
        installation = tritonserver.find()
    except ServerError:  # that there is none is said by who serves
        return
    if installation.prefix is not None:
        python = installation.prefix / "bin" / "python"
        check_cuda(python, tritonserver.environment(installation), halves[0])


def check_cuda(python: str | Path, environment: Mapping[str, str], stage: str) -> None:
    """Raise :class:`RecipeError` if the ONNX Runtime of a Python runs nothing on CUDA. ``stage``: what is to run."""
    # -P: nothing of the folder that this was started in.
    command = [str(python), "-P", "-W", "ignore", "-c", PROBE]
    try:
        done = subprocess.run(
            command, input=_graph(), env=dict(environment), capture_output=True, timeout=PROBE_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise RecipeError(
            f"{python} cannot be asked for its ONNX Runtime: {exc}. Run `make setup TARGET=gpu`."
        ) from exc
    lines = (done.stderr if done.returncode else done.stdout).decode(errors="replace").strip().splitlines()
    last = lines[-1] if lines else f"exit code {done.returncode}"
    if done.returncode or CUDA not in last:
        raise RecipeError(
            f"Stage {stage!r} is for a GPU, and the ONNX Runtime of {python} has none: {last}; expected {CUDA}. "
            "Install onnxruntime-gpu in place of onnxruntime, with CUDA and cuDNN: `make setup TARGET=gpu`."
        )


def _graph() -> bytes:
    """A product of matrices: it loads cuBLAS too."""
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [16, 16]) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "product", [x], [y])
    opset = [helper.make_opsetid("", 17)]
    found: bytes = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    return found
