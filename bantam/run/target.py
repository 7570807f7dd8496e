"""Whether what is asked for can run here, before any work is done."""

from __future__ import annotations

from bantam.errors import RecipeError
from bantam.run.request import OptimizeRequest
from optimizer.config import ExportConfig
from optimizer.recipe import Recipe


def check_target(recipe: Recipe, request: OptimizeRequest) -> None:
    """Raise :class:`RecipeError` for prices that are none, and for a GPU that PyTorch or ONNX Runtime cannot use."""
    _ = request.prices  # raises for what is none
    if request.target != "gpu":
        return
    import torch

    if not torch.cuda.is_available():
        raise RecipeError(
            f"Got --target gpu, and PyTorch {torch.__version__} sees no GPU; expected an NVIDIA GPU and a build for "
            "CUDA. `make setup TARGET=gpu` installs one, `bantam doctor` says what is missing; or leave --target out."
        )
    halves = [stage for stage in recipe.stages if isinstance(stage, ExportConfig) and stage.precision == "fp16"]
    if halves:
        import onnxruntime

        if "CUDAExecutionProvider" not in (found := onnxruntime.get_available_providers()):
            raise RecipeError(
                f"Stage {halves[0].name!r} is for a GPU, and ONNX Runtime has {', '.join(found)}; expected "
                "CUDAExecutionProvider. Install onnxruntime-gpu in place of onnxruntime: `make setup TARGET=gpu`."
            )
