"""Weights and activations in fewer bits.

A new method is one new file here, with its config, its function and their :class:`Method`, and one entry in
:data:`METHODS`. Recipes are read through it: the methods' modules import what they quantize with when they do.
"""

from __future__ import annotations

import random
import shutil
import time
from dataclasses import replace

import numpy as np

from bantam.artifact import LAYOUTS, TOKENIZER_FILES, Artifact, Manifest, deployable_files, seal
from bantam.errors import BantamError, StageError, reason
from optimizer import logits
from optimizer.config import CalibratedQuantizeConfig, QuantizeConfig
from optimizer.quantize import (
    bitsandbytes_int8,
    bitsandbytes_nf4,
    neighbours,
    onnx_4bit,
    onnx_dynamic,
    onnx_higgs,
    onnx_mixed,
    onnx_static,
    openvino_static,
    openvino_weights,
    torch_bf16,
    torch_fp16,
    torchao_int4,
    torchao_int8,
)
from optimizer.quantize.method import Batches, Method
from optimizer.stage import RunContext

METHODS: dict[str, Method] = {
    "onnx-dynamic-int8": onnx_dynamic.METHOD,
    "onnx-static-int8": onnx_static.METHOD,
    "openvino-static-int8": openvino_static.METHOD,
    "onnx-int4": onnx_4bit.METHOD,
    "onnx-mixed": onnx_mixed.METHOD,
    "openvino-weights": openvino_weights.METHOD,
    "onnx-higgs": onnx_higgs.METHOD,
    "bitsandbytes-int8": bitsandbytes_int8.METHOD,
    "bitsandbytes-nf4": bitsandbytes_nf4.METHOD,
    "torch-bf16": torch_bf16.METHOD,
    "torch-fp16": torch_fp16.METHOD,
    "torchao-int8": torchao_int8.METHOD,
    "torchao-int4": torchao_int4.METHOD,
}
"""The word after ``method`` in a recipe -> the method."""

COMPARED = 200
"""Training texts whose logits are compared with the parent's."""
COMPARED_RANDOM = 40
"""The same of random weights, which only have to run: a large model takes minutes for 200 texts."""


def run(parent: Artifact, config: QuantizeConfig, context: RunContext) -> Artifact:
    """Quantize ``parent`` by ``config.method``, and record how far its logits are from the parent's on training texts.

    Raises :class:`StageError` if the parent does not suit the method, the method fails on it, or the result gives NaN
    or the same logits for every text.
    """
    started = time.monotonic()
    method, origin = METHODS[config.method], parent.manifest
    _check_possible(parent, config, method)
    for name in TOKENIZER_FILES:
        shutil.copyfile(parent.folder / name, context.folder / name)
    batches = _drawn(parent, config, context)
    try:
        quantized = method.write(parent, config, context, _calibrating(batches, config, context))
    except (BantamError, OSError, MemoryError):
        raise
    except Exception as exc:  # the libraries behind the methods raise anything on a model that they were not made for
        raise StageError(
            f"{config.method} cannot quantize {parent.name!r}: {reason(exc)}. Use another quantization method for it."
        ) from exc
    seconds = round(time.monotonic() - started, 1)
    manifest = Manifest(
        stage=config.stage,
        key=context.key,
        layout=method.makes,
        compute=quantized.compute,
        signature=origin.signature,
        deployable=deployable_files(context.folder, method.makes),
        lineage=context.lineage(config, parent),
        details=quantized.details,
        random_weights=origin.random_weights,
        licences=context.licences,
        quantization=context.quantization,
    )
    made = Artifact(context.folder, manifest, config.name)
    if manifest.compute.batch_invariant and manifest.compute.padded_to > 1 and _depends(made, context, batches):
        # Texts run one by one then.
        manifest = replace(manifest, compute=replace(manifest.compute, batch_invariant=False, padded_to=1))
    compared = COMPARED_RANDOM if origin.random_weights else COMPARED
    manifest.metrics.update(quantize_s=seconds, logits=_compare(parent, made, context, batches(compared)))
    return Artifact(context.folder, seal(context.folder, manifest))


def _check_possible(parent: Artifact, config: QuantizeConfig, method: Method) -> None:
    if parent.manifest.layout not in method.accepts or not parent.manifest.is_fp32:
        formats = " or ".join(sorted(LAYOUTS[layout].format for layout in method.accepts))
        raise StageError(
            f"Stage {config.name!r} quantizes {parent.name!r}, which is {parent.manifest.kind}. "
            f"Expected a parent of format {formats} in fp32."
        )


def _drawn(parent: Artifact, config: QuantizeConfig, context: RunContext) -> Batches:
    texts = list(context.data.splits["train"].texts)
    seed = config.seed if isinstance(config, CalibratedQuantizeConfig) else 0

    def batches(count: int) -> list[logits.Batch]:
        drawn = random.Random(seed).sample(texts, min(len(texts), count))
        return logits.encode(parent.folder, parent.manifest.signature, drawn)

    return batches


def _calibrating(batches: Batches, config: QuantizeConfig, context: RunContext) -> Batches:
    """As ``batches``; says how many texts there are where these are fewer than asked for, and refuses none."""

    def calibration(count: int) -> list[logits.Batch]:
        found = batches(count)
        if not found:
            raise StageError(
                f"Stage {config.name!r} ({config.method}) calibrates on training texts, of which none has a token. "
                "Use data with texts, or a method without calibration."
            )
        if len(found) < count:
            context.log(f"{config.name}: calibrated on {len(found)} texts, of {count} asked for: there are no more")
        return found

    return calibration


def _compare(parent: Artifact, made: Artifact, context: RunContext, batches: list[logits.Batch]) -> dict[str, float]:
    """Differences of the logits to the parent's, text by text.

    Dynamic quantization takes the scale of an activation from the whole batch: only single texts can be repeated. One
    model after the other, so that there is memory for one.
    """
    expected = _answers(parent, batches, context)
    try:
        got = _answers(made, batches, context)
    except Exception as exc:  # runtimes raise classes of their own
        raise StageError(
            f"Stage {made.name!r} gave a model that cannot be run: {reason(exc)}. Use another quantization method."
        ) from exc
    spread = float(expected.std(axis=0).max())
    whole = got.shape == expected.shape
    if not whole or not np.isfinite(got).all() or (len(batches) > 1 and got.std(axis=0).max() < 1e-3 * spread):
        wrong = "constant" if np.isfinite(got).all() else "not finite"
        wrong = wrong if whole else f"of shape {[*got.shape]}, not {[*expected.shape]},"
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


def _depends(made: Artifact, context: RunContext, batches: Batches) -> bool:
    """Whether a text's logits depend on others in its batch after all, whatever is known of the method."""
    model, compared = logits.of(made, threads=context.threads), batches(neighbours.TEXTS)
    return (
        neighbours.differ(model, made.manifest.signature, compared, made.manifest.compute.padded_to) > neighbours.SAME
    )


def _answers(artifact: Artifact, batches: list[logits.Batch], context: RunContext) -> np.ndarray:
    """Logits ``[texts, labels]``; the model is let go."""
    model = logits.of(artifact, threads=context.threads)
    return np.concatenate([model(batch) for batch in batches])
