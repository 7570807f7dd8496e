"""Which of ONNX Runtime's execution providers run a model, and with what options. Standard library only."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Collection, Sequence
from pathlib import Path

from .manifest import ModelManifest
from .program import MAX_PADDED_TOKENS, Placement

TENSORRT, CUDA, CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"
Provider = tuple[str, dict[str, str]]
"""As ``onnxruntime.InferenceSession`` takes them, the first one first."""
TENSORRT_LIBRARY = "libnvinfer.so.10"
"""TensorRT itself, which onnxruntime-gpu does not bring."""
ON = "True"
"""How ONNX Runtime's Python reads a switch of TensorRT: ``True`` or ``False``, in this or lower case; for anything
else, 1 too, it raises (onnxruntime_pybind_state.cc)."""
BUCKET = 16
"""On a GPU, lengths are multiples of this: tensor cores take 8 or 16 at a time, and few shapes come again and again, so
that CUDA's memory is asked for once."""
USUAL_TOKENS = 64
"""The length that TensorRT is asked to be fastest at."""


def usable(available: Sequence[str]) -> list[str]:
    """Those of ``available`` without TensorRT where its library cannot be loaded: ONNX Runtime lists it all the same.

    ``available``: what ``onnxruntime.get_available_providers()`` gives.
    """
    try:
        ctypes.CDLL(TENSORRT_LIBRARY)
    except OSError:
        return [name for name in available if name != TENSORRT]
    return [*available]


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


def most_texts(most: int, manifest: ModelManifest) -> int:
    """Of ``most`` texts, how many a run on a GPU may have.

    What TensorRT may run is a box of shapes, whose largest has as many texts of the longest length: that one must fit
    in :data:`MAX_PADDED_TOKENS` too. CUDA takes any shape.
    """
    if not manifest.standard_operators:
        return most
    return max(1, min(most, MAX_PADDED_TOKENS["cuda"] // manifest.max_length))


def tensorrt(placement: Placement, manifest: ModelManifest, cache: Path) -> dict[str, str]:
    """TensorRT's options: fp16, one profile of shapes for all that the engine runs, engines kept in ``cache``.

    ONNX Runtime gives TensorRT one profile a model. Without it, each shape beyond those seen would build another
    engine, which is expected to take minutes. How fast kernels are is kept beside ``cache``: another version of a model
    has the same layers.
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
        "trt_fp16_enable": ON,
        "trt_layer_norm_fp32_fallback": ON,  # sums of squares overflow in fp16
        "trt_engine_cache_enable": ON,
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": ON,
        "trt_timing_cache_path": str(cache.parent),
        **profile,
    }


def engine_cache(manifest: ModelManifest) -> Path:
    """The folder of this model's engines, below $BANTAM_CACHE or the user's cache folder, for this user alone.

    By the weights: ONNX Runtime names an engine by its graph, which another version of the model may have too. Raises
    ``ValueError`` if it cannot be written to, or is another's: engines are code, and whose they are is who may run it.
    """
    root = os.environ.get("BANTAM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "bantam")
    folder = Path(root, "tensorrt", manifest.weights[:16])
    try:
        folder = folder.expanduser()
        for each in (folder.parent, folder):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_own(each)
        writable = os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        writable = False
    if not writable:
        raise ValueError(
            f"{folder} cannot be written to, expected a folder for TensorRT's engines. Name one in BANTAM_CACHE; in a "
            "container, a volume or a tmpfs of the user that it runs as."
        )
    return folder


def _check_own(folder: Path) -> None:
    found = folder.stat()
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(
            f"{folder} is of user {found.st_uid} with mode {stat.S_IMODE(found.st_mode):o}; expected one that user "
            f"{os.geteuid()} owns and nobody else may write to, for TensorRT's engines are code. Remove it, or name "
            "another folder in BANTAM_CACHE."
        )


def check(asked: Sequence[Provider], used: Collection[str]) -> None:
    """Raise ``ValueError`` if a session runs without a provider that was asked for: it says so only in a log.

    ``used``: what ``InferenceSession.get_providers()`` gives.
    """
    for name, _ in asked:
        if name not in used:
            raise ValueError(
                f"ONNX Runtime was asked for {name}, and runs the model on {', '.join(used)}; expected {name}. Its log "
                "says what it could not load: a driver, or libraries of CUDA, cuDNN and TensorRT of the versions that "
                "it was built for (pip install 'onnxruntime-gpu[cuda,cudnn]'; TensorRT is installed apart)."
            )
