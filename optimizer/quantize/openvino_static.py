"""Static int8 for OpenVINO: NNCF finds the scales of activations from training texts at their real lengths."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any

import openvino

from bantam.artifact import LAYOUTS, Artifact, Compute, Numbers
from bantam.errors import StageError
from optimizer import openvino_ir
from optimizer.config import QuantizeConfig
from optimizer.logits import Batch
from optimizer.stage import RunContext

COMPUTE = Compute(
    weights=Numbers("int", 8, "symmetric", "channel"),
    activations=Numbers("int", 8, "asymmetric", "tensor", dynamic=False),
    # The scales are fixed, but the kernels round otherwise for other shapes (0.002 on MiniLM).
    batch_invariant=False,
)


def write(
    parent: Artifact, config: QuantizeConfig, context: RunContext, batches: list[Batch]
) -> tuple[str, Compute, dict[str, Any]]:
    """Write ``model.xml`` and ``model.bin``, calibrated on ``batches`` (one text each, not padded).

    Weights of matrix products and embeddings are stored in int8. What stays fp32 is computed in fp32, and is not
    compressed to fp16 either. Raises :class:`StageError` if the parent is neither ONNX nor OpenVINO IR in fp32.
    """
    manifest = parent.manifest
    if manifest.layout not in ("onnx", "openvino") or not manifest.is_fp32:
        raise StageError(
            f"Stage {config.name!r} quantizes {parent.name!r}, which is {manifest.kind}. "
            "Expected a parent of format onnx or openvino in fp32."
        )
    logging.getLogger("nncf").setLevel(logging.ERROR)
    import nncf

    try:
        source = parent.folder / LAYOUTS[manifest.layout].weights[0]
        model = openvino.convert_model(source) if manifest.layout == "onnx" else openvino.Core().read_model(source)
        # Its progress bars go to stderr: stdout may be read by a script.
        with contextlib.redirect_stdout(sys.stderr):
            quantized = nncf.quantize(
                model,
                nncf.Dataset(batches),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(batches),
            )
    except (RuntimeError, nncf.errors.ValidationError, nncf.errors.UnsupportedModelError) as exc:
        raise StageError(
            f"NNCF cannot quantize {parent.name!r}: {str(exc).strip()[:300]}. "
            "Use another quantization method for this model."
        ) from exc
    openvino_ir.save(quantized, context.folder)
    return (
        "openvino",
        COMPUTE,
        {
            "quantizer": f"nncf {nncf.__version__}",
            "calibration_texts": len(batches),
        },
    )
