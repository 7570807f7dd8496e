"""Static int8 for OpenVINO: NNCF finds the scales of activations from training texts at their real lengths."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Literal

from bantam.artifact import Artifact, Compute, Numbers
from bantam.errors import StageError
from optimizer.config import CalibratedQuantizeConfig
from optimizer.quantize.method import Batches, Method, Quantized
from optimizer.stage import RunContext

COMPUTE = Compute(
    weights=Numbers("int", 8, "symmetric", "channel"),
    activations=Numbers("int", 8, "asymmetric", "tensor", dynamic=False),
    # The scales are fixed, but fp32 between the products rounds otherwise for other shapes, which tips activations over
    # to their next step. Most texts' probabilities stay as they are alone; of 702 the farthest moved by 0.04 (MiniLM).
    batch_invariant=False,
)


class StaticInt8Config(CalibratedQuantizeConfig):
    """int8 matrix products and embeddings with calibrated scales."""

    method: Literal["openvino-static-int8"] = "openvino-static-int8"


def write(parent: Artifact, config: StaticInt8Config, context: RunContext, batches: Batches) -> Quantized:
    """Write ``model.xml`` and ``model.bin``, calibrated on ``config.calibration_rows`` texts.

    Weights of matrix products and embeddings are stored in int8. What stays fp32 is computed in fp32, and is not
    compressed to fp16 either. Raises :class:`StageError` if NNCF cannot quantize the model.
    """
    from optimizer import openvino_ir

    logging.getLogger("nncf").setLevel(logging.ERROR)
    import nncf

    calibration = batches(config.calibration_rows)
    try:
        model = openvino_ir.read(parent)
        # Its progress bars go to stderr: stdout may be read by a script.
        with contextlib.redirect_stdout(sys.stderr):
            quantized = nncf.quantize(
                model,
                nncf.Dataset(calibration),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(calibration),
            )
    except (RuntimeError, nncf.errors.ValidationError, nncf.errors.UnsupportedModelError) as exc:
        raise StageError(
            f"NNCF cannot quantize {parent.name!r}: {str(exc).strip()[:300]}. "
            "Use another quantization method for this model."
        ) from exc
    openvino_ir.save(quantized, context.folder)
    return Quantized(COMPUTE, {"quantizer": f"nncf {nncf.__version__}", "calibration_texts": len(calibration)})


METHOD = Method(StaticInt8Config, accepts=frozenset({"onnx", "openvino"}), makes="openvino", write=write)
