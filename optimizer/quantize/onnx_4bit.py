"""Weights in 4 bits for ONNX Runtime: blocks of each weight share a scale and a zero point (round to nearest)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import numpy as np

from bantam.artifact import Artifact, Compute, Numbers
from optimizer.config import QuantizeConfig
from optimizer.quantize.method import Batches, Method, Quantized
from optimizer.stage import RunContext

if TYPE_CHECKING:
    import onnx

ACCURACY_LEVEL = {"fp32": 0, "int8": 4}
"""Of MatMulNBits, an operator of com.microsoft: what it computes in."""


class Int4Config(QuantizeConfig):
    """Matrix products and embeddings in 4 bits."""

    method: Literal["onnx-int4"] = "onnx-int4"
    block_size: Literal[16, 32, 64, 128, 256] = 32
    """How many weights share a scale (fp32) and a zero point: 5.1 bits a weight at 32, 4.3 at 128. 32 is the smallest
    block that costs no more than a bit, and has a fifth less error than 128."""
    products: Literal["fp32", "int8"] = "fp32"
    """What matrix products are computed in; int8 rounds the activations too, in blocks of each token."""


def write(parent: Artifact, config: Int4Config, context: RunContext, batches: Batches) -> Quantized:
    """Write ``model.onnx`` with matrix products and embeddings in 4 bits; needs no calibration.

    Small weights, the classifier's among them, stay fp32.
    """
    import onnxruntime
    from onnxruntime.quantization.onnx_model import ONNXModel

    from optimizer.quantize.embeddings import quantize_embeddings
    from optimizer.quantize.onnx_graph import is_large, load

    model = load(parent)
    ONNXModel(model).replace_gemm_with_matmul()
    embeddings = quantize_embeddings(model.graph, 4, config.block_size)
    weights = {weight.name for weight in model.graph.initializer if is_large(weight)}
    products = [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    _pack(model, products, config.block_size, ACCURACY_LEVEL[config.products])
    blocks = Numbers("int", 8, "symmetric", "block", dynamic=True)
    compute = Compute(
        weights=Numbers("int", 4, "asymmetric", "block"),
        activations=blocks if config.products == "int8" else Numbers(),
        # On MiniLM, a text's probabilities alone and among others or padding differ by up to 2e-6 with products in
        # fp32. In int8 by 5e-3: fp32 between the products rounds otherwise for other shapes, which tips activations
        # over to their next step.
        batch_invariant=parent.manifest.compute.batch_invariant and config.products == "fp32",
    )
    large = (parent.folder / "model.onnx.data").exists()
    ONNXModel(model).save_model_to_file(context.folder / "model.onnx", large)
    return Quantized(
        compute,
        {
            "quantizer": f"onnxruntime {onnxruntime.__version__}",
            "int4_products": len(products),
            "int4_embeddings": embeddings,
        },
    )


METHOD = Method(Int4Config, accepts=frozenset({"onnx"}), makes="onnx", write=write)


def _pack(model: onnx.ModelProto, nodes: list[onnx.NodeProto], block_size: int, accuracy_level: int) -> None:
    """Replace these MatMul nodes by those that unpack weights of 4 bits."""
    # The module sets the root logger up when it is imported, unless that has a handler already.
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
    finally:
        root.removeHandler(handler)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    names = {node.name for node in nodes}
    quantizer = MatMulNBitsQuantizer(
        model,
        algo_config=DefaultWeightOnlyQuantConfig(
            block_size=block_size, accuracy_level=accuracy_level, op_types_to_quantize=("MatMul",)
        ),
        nodes_to_include=sorted(names),
        nodes_to_exclude=[node.name for node in model.graph.node if node.name not in names],
    )
    with np.errstate(invalid="ignore"):  # a block of zeros, such as the padding token's: 0 / 0, which it looks for
        quantizer.process()
    model.ir_version = max(model.ir_version, 10)  # the first with int4
    # A weight that several nodes share (ALBERT) was written for each of them.
    seen: set[str] = set()
    for weight in list(model.graph.initializer):
        if weight.name in seen:
            model.graph.initializer.remove(weight)
        seen.add(weight.name)
