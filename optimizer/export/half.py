"""An ONNX graph in fp16, by the converter that ONNX Runtime brings; logits leave in fp32.

What overflows in fp16 (largest number 65,504) is kept from it: the additive mask's lowest fp32 number becomes the
lowest fp16 one, which added to a score is minus infinity at worst, and no row of a softmax is of these alone. Sums of
squares and of exponentials (LayerNormalization, Softmax, attention) are left to ONNX Runtime's kernels for CUDA, which
are expected to accumulate in fp32.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from bantam.errors import StageError, reason

GRAPH, WEIGHTS = "model.onnx", "model.onnx.data"


def halve(folder: Path, largest_file: int) -> None:
    """Rewrite ``model.onnx`` in ``folder`` in fp16; weights of more than ``largest_file`` bytes go beside the graph.

    Raises :class:`StageError` if the converter fails.
    """
    model = onnx.load(folder / GRAPH)
    del model.graph.value_info[:]  # shapes and types of fp32
    try:
        # Shapes are not inferred: onnx does not know ONNX Runtime's own operators, and no node needs them here.
        half = convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True)
    except (ValueError, RuntimeError, TypeError, KeyError, AttributeError) as exc:  # whatever it met in the graph
        raise StageError(
            f"ONNX Runtime cannot convert this model to fp16: {reason(exc)}. Export it in fp32 instead."
        ) from exc
    large = half.ByteSize() > largest_file
    (folder / WEIGHTS).unlink(missing_ok=True)
    onnx.save(half, folder / GRAPH, save_as_external_data=large, location=WEIGHTS if large else None)
