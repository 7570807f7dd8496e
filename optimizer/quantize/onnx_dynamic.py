"""Dynamic int8 for ONNX Runtime: weights int8 per output channel, activations uint8 with a scale found at run time."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from bantam.artifact import Artifact, Compute, Numbers
from optimizer.config import CalibratedQuantizeConfig
from optimizer.quantize.method import Batches, Method, Quantized
from optimizer.quantize.static import Smooth
from optimizer.stage import RunContext

if TYPE_CHECKING:
    import onnx

COMPUTE = Compute(
    weights=Numbers("int", 8, "symmetric", "channel"),
    activations=Numbers("int", 8, "asymmetric", "tensor", dynamic=True),
    # DynamicQuantizeLinear takes one scale for a whole batch, padding included: a text's probabilities alone and among
    # others differ by up to 0.3 on MiniLM.
    batch_invariant=False,
)


class DynamicInt8Config(CalibratedQuantizeConfig):
    """int8 matrix products, embeddings in 8 or 4 bits."""

    method: Literal["onnx-dynamic-int8"] = "onnx-dynamic-int8"
    calibration_rows: int = Field(300, ge=1)
    """With ``smooth``: how many training texts, at their real lengths."""
    smooth: Smooth = False
    """SmoothQuant's alpha, such as 0.9: less of an activation is lost by its scale."""
    embedding_bits: Literal[8, 4] = 8
    """Of the embeddings, often half of what is shipped."""
    block_size: Literal[16, 32, 64, 128, 256] | None = None
    """With ``embedding_bits = 4``: how many weights share a scale and a minimum; 32 if absent."""

    @model_validator(mode="after")
    def _no_key_for_nothing(self) -> DynamicInt8Config:
        if self.block_size and self.embedding_bits == 8:
            raise ValueError("block_size goes with embedding_bits = 4; 8 bits have one scale a row")
        if self.smooth is False:
            self.check_unused(("calibration_rows", "seed"), "smooth")
        return self


def write(parent: Artifact, config: DynamicInt8Config, context: RunContext, batches: Batches) -> Quantized:
    """Write ``model.onnx`` with int8 matrix products and embeddings; calibrated for ``config.smooth`` alone.

    Weights keep all 8 bits: with VNNI nothing saturates, and elsewhere the engine has the products computed
    otherwise (``int8_saturates``).
    """
    import onnxruntime
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.onnx_model import ONNXModel

    from optimizer.quantize.embeddings import quantize_embeddings
    from optimizer.quantize.onnx_graph import load, products_of
    from optimizer.quantize.smooth import smooth

    model = load(parent)
    details: dict[str, Any] = {"quantizer": f"onnxruntime {onnxruntime.__version__}"}
    if config.smooth is not False:
        ONNXModel(model).replace_gemm_with_matmul()
        texts = batches(config.calibration_rows)
        details["smoothed_inputs"] = smooth(
            model, products_of(model.graph), config.smooth, texts, folder=parent.folder, threads=context.threads
        )
    bits = config.embedding_bits
    tables = quantize_embeddings(model.graph, bits, config.block_size or 32)
    large = (parent.folder / "model.onnx.data").exists()
    path = context.folder / "model.onnx"
    with _temporary_files_in(context.scratch), _quiet():
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_by_stacks(model),
            use_external_data_format=large,
            # Operators of com.microsoft have no shape inference in onnx; all that they give here is float.
            extra_options={"DefaultTensorType": TensorProto.FLOAT},
        )
    return Quantized(COMPUTE, details | {f"int{bits}_embeddings": tables})


def _by_stacks(model: onnx.ModelProto) -> list[str]:
    """Products with a stack of matrices, as of experts: ONNX Runtime has no scale a channel for them."""
    stacks = {weight.name for weight in model.graph.initializer if len(weight.dims) > 2}
    return [node.name for node in model.graph.node if node.op_type == "MatMul" and stacks & {*node.input}]


METHOD = Method(DynamicInt8Config, accepts=frozenset({"onnx"}), makes="onnx", write=write)


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """The quantizer writes the model to a temporary folder; a kill must not leave it in the system's."""
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without "Please consider to run pre-processing before quantization": the export has done it."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
