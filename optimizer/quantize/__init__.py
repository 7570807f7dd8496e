"""Weights and activations in fewer bits."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bantam.artifact import TOKENIZER_FILES, Artifact, Compute, Manifest, deployable_files, seal
from bantam.errors import StageError
from optimizer import logits
from optimizer.config import QuantizeConfig
from optimizer.quantize import onnx_4bit, onnx_dynamic, openvino_static
from optimizer.stage import RunContext

METHODS: dict[
    str, Callable[[Artifact, QuantizeConfig, RunContext, list[logits.Batch]], tuple[str, Compute, dict[str, Any]]]
] = {
    "onnx-dynamic-int8": onnx_dynamic.write,
    "openvino-static-int8": openvino_static.write,
    "onnx-int4": onnx_4bit.write,
}
"""Method -> what writes the quantized model into ``context.folder``; returns its layout, what it computes in, and the
manifest's details."""

COMPARED = 200
"""Training texts whose logits are compared with the parent's."""


def run(parent: Artifact, config: QuantizeConfig, context: RunContext) -> Artifact:
    """Quantize ``parent`` by ``config.method``, and record how far its logits are from the parent's on training texts.

    Raises :class:`StageError` if the parent does not suit the method, or the result gives NaN or the same logits for
    every text.
    """
    started = time.monotonic()
    origin = parent.manifest
    texts = list(context.data.splits["train"].texts)
    drawn = random.Random(config.seed).sample(texts, min(len(texts), max(config.calibration_rows, COMPARED)))
    batches = logits.encode(parent.folder, origin.signature, drawn)
    layout, compute, details = METHODS[config.method](parent, config, context, batches[: config.calibration_rows])
    for name in TOKENIZER_FILES:
        shutil.copyfile(parent.folder / name, context.folder / name)
    seconds = round(time.monotonic() - started, 1)
    manifest = Manifest(
        stage=config.stage,
        key=context.key,
        layout=layout,
        compute=compute,
        signature=origin.signature,
        deployable=deployable_files(context.folder, layout),
        lineage=context.lineage(config, parent),
        details=details,
        random_weights=origin.random_weights,
    )
    made = Artifact(context.folder, manifest, config.name)
    manifest.metrics.update(quantize_s=seconds, logits=_compare(parent, made, context, batches[:COMPARED]))
    return Artifact(context.folder, seal(context.folder, manifest))


def _compare(parent: Artifact, made: Artifact, context: RunContext, batches: list[logits.Batch]) -> dict[str, float]:
    """Differences of the logits to the parent's, text by text.

    Dynamic quantization takes the scale of an activation from the whole batch: only single texts can be repeated.
    """
    reference = logits.of(parent, threads=context.threads)
    quantized = logits.of(made, threads=context.threads)
    expected = np.concatenate([reference(batch) for batch in batches])
    got = np.concatenate([quantized(batch) for batch in batches])
    spread = float(expected.std(axis=0).max())
    if not np.isfinite(got).all() or (len(batches) > 1 and got.std(axis=0).max() < 1e-3 * spread):
        wrong = "constant" if np.isfinite(got).all() else "not finite"
        raise StageError(
            f"Stage {made.name!r} gave a model whose logits are {wrong} on {len(batches)} training texts; "
            f"those of {parent.name!r} vary by {spread:.3g}. "
            "Use another quantization method for this model."
        )
    difference = np.abs(got - expected)
    return {
        "texts": len(batches),
        "max_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "reference_std": spread,
    }
