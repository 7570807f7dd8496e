"""Static int8 for OpenVINO: NNCF finds the scales of activations from training texts at their real lengths.

SmoothQuant (Xiao et al. 2023) is NNCF's own, which runs before, and so is the correction of biases after it.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any, Literal, Self

from pydantic import model_validator

from bantam.artifact import Artifact, Compute, Numbers
from bantam.errors import StageError
from optimizer.quantize.method import Batches, Method, Quantized
from optimizer.quantize.static import Smooth, StaticQuantizeConfig
from optimizer.stage import RunContext

ESTIMATORS = {"min-max": "MINMAX", "mean": "MEAN_MINMAX", "percentile": "MEAN_QUANTILE", "mse": "HISTOGRAM"}
"""``calibration`` -> the name of NNCF's estimator."""
MOST_TEXTS = 1000
"""For calibration: memory grows with each, by whatever estimator: 0.16 MB a text of MiniLM (NNCF 3.4)."""


class StaticInt8Config(StaticQuantizeConfig):
    """int8 matrix products and embeddings with calibrated scales."""

    method: Literal["openvino-static-int8"] = "openvino-static-int8"
    calibration: Literal["min-max", "mean", "percentile", "mse"] = "mean"
    """How the range of an activation is found: the lowest and highest value of all texts, the mean of each text's, the
    mean of each text's percentiles (0.01 and 99.99), or the range with the least squared error on a histogram."""
    smooth: Smooth = 0.95
    """SmoothQuant's alpha, or false."""

    @model_validator(mode="after")
    def _few_texts(self) -> Self:
        if self.calibration_rows > MOST_TEXTS:
            raise ValueError(
                f"got calibration_rows = {self.calibration_rows:,}, expected at most {MOST_TEXTS:,}: NNCF's memory "
                "grows with each text. Take fewer, or onnx-static-int8, whose memory does not"
            )
        return self


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
                **_options(config),
            )
    except (RuntimeError, nncf.errors.ValidationError, nncf.errors.UnsupportedModelError) as exc:
        raise StageError(
            f"NNCF cannot quantize {parent.name!r}: {str(exc).strip()[:300]}. "
            "Use another quantization method for this model."
        ) from exc
    openvino_ir.save(quantized, context.folder)
    compute = Compute(
        weights=Numbers("int", 8, "symmetric", config.weights),
        activations=Numbers("int", 8, config.activations, "tensor", dynamic=False),
        # The scales are fixed, but fp32 between the products rounds otherwise for other shapes, which tips activations
        # over to their next step. Most texts' probabilities stay as they are alone; of 702 the farthest moved by 0.04
        # (MiniLM).
        batch_invariant=False,
    )
    return Quantized(compute, {"quantizer": f"nncf {nncf.__version__}", "calibration_texts": len(calibration)})


METHOD = Method(StaticInt8Config, accepts=frozenset({"onnx", "openvino"}), makes="openvino", write=write)


def _options(config: StaticInt8Config) -> dict[str, Any]:
    """What ``nncf.quantize`` is called with."""
    import nncf
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        AdvancedSmoothQuantParameters,
        QuantizationParameters,
    )
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    presets = {"symmetric": nncf.QuantizationPreset.PERFORMANCE, "asymmetric": nncf.QuantizationPreset.MIXED}
    return {
        "preset": presets[config.activations],
        "advanced_parameters": AdvancedQuantizationParameters(
            weights_quantization_params=QuantizationParameters(per_channel=config.weights == "channel"),
            activations_range_estimator_params=getattr(RangeEstimatorParametersSet, ESTIMATORS[config.calibration]),
            smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=-1 if config.smooth is False else config.smooth),
        ),
    }
