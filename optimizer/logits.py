"""Logits of an artifact, whatever its format: what parity and quantization compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.artifact import Manifest

Batch = Mapping[str, NDArray[np.int64]]
"""Input name -> token array ``[batch, tokens]``."""

Logits = Callable[[Batch], NDArray[np.float32]]
"""A model as a function: a batch to logits float32 ``[batch, labels]``."""


def of(folder: Path, manifest: Manifest, *, threads: int | None = None) -> Logits:
    """Load the model in ``folder``, which may still be in the making, in the format that ``manifest`` says."""
    return FORMATS[manifest.format](folder, manifest, threads)


def _pytorch(folder: Path, manifest: Manifest, threads: int | None) -> Logits:
    import torch
    from transformers import AutoModelForSequenceClassification

    if threads:
        torch.set_num_threads(threads)
    return of_module(AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval())


def of_module(model: Any) -> Logits:
    """The same for a PyTorch classifier of ``transformers`` that is loaded already."""
    import torch

    def logits(batch: Batch) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(model(**{name: torch.from_numpy(array) for name, array in batch.items()}).logits.numpy())

    return logits


def _onnx(folder: Path, manifest: Manifest, threads: int | None) -> Logits:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    return lambda batch: np.asarray(session.run(["logits"], dict(batch))[0])


def _openvino(folder: Path, manifest: Manifest, threads: int | None) -> Logits:
    import openvino

    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": manifest.details["inference_precision"]}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    request = openvino.Core().compile_model(folder / "model.xml", "CPU", settings).create_infer_request()
    return lambda batch: np.array(request.infer(dict(batch))["logits"])


FORMATS: dict[str, Callable[[Path, Manifest, int | None], Logits]] = {
    "pytorch": _pytorch,
    "onnx": _onnx,
    "openvino": _openvino,
}
