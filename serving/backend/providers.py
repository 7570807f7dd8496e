"""Which of ONNX Runtime's execution providers run a model, and with what options. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from .manifest import ModelManifest
from .program import Placement

TENSORRT, CUDA, CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"
Provider = tuple[str, dict[str, str]]
"""As ``onnxruntime.InferenceSession`` takes them, the first one first."""
BUCKET = 16
"""On a GPU, lengths are multiples of this: tensor cores take 8 or 16 at a time, and few shapes come again and again, so
that CUDA's memory is asked for once."""
USUAL_TOKENS = 64
"""The length that TensorRT is asked to be fastest at."""


def providers(placement: Placement, manifest: ModelManifest, available: Collection[str]) -> list[Provider]:
    """What to ask for, of what is ``available``: CUDA, with the CPU for what it leaves.

    TensorRT comes before CUDA where the graph is of standard operators alone: it knows no other, and of a graph that it
    takes in parts it wants the shapes of each part. Raises ``ValueError`` if there is no CUDA to ask for, or no folder
    for TensorRT's engines.
    """
    if CUDA not in available:
        raise ValueError(
            f"Device cuda was asked for, and this ONNX Runtime has {', '.join(available)}; expected {CUDA}. Install "
            "onnxruntime-gpu in place of onnxruntime (make setup TARGET=gpu), or run the model on the CPU."
        )
    found: list[Provider] = [(CUDA, {"device_id": "0"}), (CPU, {})]
    if TENSORRT in available and manifest.standard_operators:
        found.insert(0, (TENSORRT, tensorrt(placement, manifest, engine_cache(manifest))))
    return found


def tensorrt(placement: Placement, manifest: ModelManifest, cache: Path) -> dict[str, str]:
    """TensorRT's options: fp16, one profile of shapes for all that the engine runs, engines kept in ``cache``.

    ONNX Runtime gives TensorRT one profile a model. Without it, each shape beyond those seen would build another
    engine, which takes minutes.
    """
    longest = manifest.max_length
    shapes = {
        "min": (1, 1),
        "opt": (placement.micro_batch, min(USUAL_TOKENS, longest)),
        "max": (placement.micro_batch, longest),
    }
    profile = {
        f"trt_profile_{which}_shapes": ",".join(f"{name}:{texts}x{tokens}" for name in manifest.inputs)
        for which, (texts, tokens) in shapes.items()
    }
    return {
        "device_id": "0",
        "trt_fp16_enable": "1",
        "trt_layer_norm_fp32_fallback": "1",  # sums of squares overflow in fp16
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
        **profile,
    }


def engine_cache(manifest: ModelManifest) -> Path:
    """The folder of this model's engines, below $BANTAM_CACHE or the user's cache folder, for this user alone.

    By the weights: ONNX Runtime names an engine by its graph, which another version of the model may have too. Raises
    ``ValueError`` if it cannot be written to.
    """
    root = os.environ.get("BANTAM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "bantam")
    folder = Path(root).expanduser() / "tensorrt" / manifest.weights[:16]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise ValueError(
            f"{folder} cannot be written to, expected a folder for TensorRT's engines. Name one in BANTAM_CACHE; in a "
            "container, a volume or a tmpfs of the user that it runs as."
        )
    return folder


def check(used: Collection[str]) -> None:
    """Raise ``ValueError`` if a session that was to run on CUDA has fallen back to the CPU: it says so only in a log.

    ``used``: what ``InferenceSession.get_providers()`` gives.
    """
    if CUDA not in used:
        raise ValueError(
            f"Device cuda was asked for, and ONNX Runtime runs the model on {', '.join(used)}; expected {CUDA}. Its "
            "log says what it could not load: a driver, or libraries of CUDA and cuDNN of the versions that it was "
            "built for (pip install 'onnxruntime-gpu[cuda,cudnn]')."
        )
