"""Weights in 4 bits for ONNX Runtime: blocks of each weight share a scale and a zero point (round to nearest)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from bantam.artifact import Artifact, Compute, Numbers
from optimizer.config import CalibratedQuantizeConfig
from optimizer.quantize.method import Batches, Method, Quantized
from optimizer.stage import RunContext

if TYPE_CHECKING:
    import onnx

ACCURACY_LEVEL = {"fp32": 0, "int8": 4}
"""Of MatMulNBits, an operator of com.microsoft: what it computes in."""


class Int4Config(CalibratedQuantizeConfig):
    """Matrix products and embeddings in 4 bits."""

    method: Literal["onnx-int4"] = "onnx-int4"
    calibration_rows: int = Field(128, ge=1)
    """With ``outliers``: how many training texts, at their real lengths."""
    block_size: Literal[16, 32, 64, 128, 256] = 32
    """How many weights share a scale (fp32) and a zero point: 5.1 bits a weight at 32, 4.3 at 128. 32 is the smallest
    block that costs no more than a bit, and has a fifth less error than 128."""
    products: Literal["fp32", "int8"] = "fp32"
    """What matrix products are computed in; int8 rounds the activations too, in blocks of each token."""
    outliers: float = Field(0.0, ge=0, le=0.2)
    """Share of each product's input channels whose weights keep 16 bits (after SpQR): 0.01 costs 0.16 bits a weight."""

    @model_validator(mode="after")
    def _no_key_for_nothing(self) -> Int4Config:
        if not self.outliers:
            self.check_unused(("calibration_rows", "seed"), "outliers")
        return self


def write(parent: Artifact, config: Int4Config, context: RunContext, batches: Batches) -> Quantized:
    """Write ``model.onnx`` with matrix products and embeddings in 4 bits; calibrated for outliers alone.

    Small weights, the classifier's among them, stay fp32. Weights that the parent keeps in a file beside its graph are
    read, packed and let go one by one.
    """
    import onnxruntime
    from onnxruntime.quantization.onnx_model import ONNXModel

    from optimizer.quantize.embeddings import quantize_embeddings
    from optimizer.quantize.onnx_graph import embedding_lookups, opened, products_of, stored, take_in

    model = opened(parent)
    products = products_of(model.graph)
    before = stored(model.graph)
    whole = {
        "product": stored(model.graph, {node.input[1] for node in products}),
        "embedding": stored(model.graph, {node.input[0] for node in embedding_lookups(model.graph)}),
    }
    energy = _energies(model, products, parent, config, context, batches) if config.outliers else {}
    embeddings = quantize_embeddings(model.graph, 4, config.block_size, folder=parent.folder)
    between = stored(model.graph)
    kept = _pack(model, products, parent.folder, config, energy)
    saved = {"product": between - stored(model.graph), "embedding": before - between}
    take_in(model.graph, parent.folder)
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
    details: dict[str, Any] = {
        "quantizer": f"onnxruntime {onnxruntime.__version__}",
        "int4_products": len(products),
        "int4_embeddings": embeddings,
        **bytes_by_kind(whole, saved),
    }
    return Quantized(compute, details | ({"outlier_channels": kept} if config.outliers else {}))


def bytes_by_kind(whole: Mapping[str, int], saved: Mapping[str, int]) -> dict[str, int]:
    """For the details, of ``product`` and ``embedding``: what the quantized ones take, and took in fp32."""
    now = {f"{kind}_bytes": size - saved[kind] for kind, size in whole.items()}
    return now | {f"{kind}_bytes_fp32": size for kind, size in whole.items()}


METHOD = Method(Int4Config, accepts=frozenset({"onnx"}), makes="onnx", write=write)


def _energies(
    model: onnx.ModelProto,
    products: list[onnx.NodeProto],
    parent: Artifact,
    config: Int4Config,
    context: RunContext,
    batches: Batches,
) -> dict[str, NDArray[np.float64]]:
    """Weight -> energy of its input channels ``[K]``, in all products that share it."""
    from optimizer.quantize.outliers import energies

    found = energies(
        model,
        dict.fromkeys(node.input[0] for node in products),
        batches(config.calibration_rows),
        folder=parent.folder,
        threads=context.threads,
    )
    sums: dict[str, NDArray[np.float64]] = {}
    for node in products:
        sums[node.input[1]] = sums.get(node.input[1], 0) + found[node.input[0]]
    return sums


def _pack(
    model: onnx.ModelProto,
    products: list[onnx.NodeProto],
    folder: Path,
    config: Int4Config,
    energy: Mapping[str, NDArray[np.float64]],
) -> int:
    """Replace these MatMul nodes by such as unpack weights of 4 bits; returns how many channels keep 16 bits.

    A weight that several nodes share (ALBERT) is packed once. ``folder``: where the file beside the graph is.
    """
    from onnx import numpy_helper

    from optimizer.quantize.outliers import outlier_channels, outlier_weights, with_outliers

    graph, kept = model.graph, 0
    weights = {weight.name: weight for weight in graph.initializer}
    made: dict[str, onnx.NodeProto] = {}
    for name, node in {node.input[1]: node for node in products}.items():
        values = np.array(numpy_helper.to_array(weights[name], str(folder)))
        if name in energy:
            channels = outlier_channels(values, energy[name], config.outliers, config.block_size)
            graph.initializer.extend(outlier_weights(name, values, channels))
            values[channels] = 0
            kept += len(channels)
        made[name], parts = packed(node, values, bits=4, block_size=config.block_size, products=config.products)
        graph.initializer.remove(weights[name])
        graph.initializer.extend(parts)
    replaced = {node.output[0] for node in products}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.output[0] in replaced:
            product = like(made[node.input[1]], node, "int4")
            nodes += with_outliers(product, node.input[1]) if energy else [product]
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    with_contrib(model)
    return kept


def with_contrib(model: onnx.ModelProto) -> None:
    """Say that it has integers of 4 bits and operators of com.microsoft."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    ONNXModel(model).set_opset_import("com.microsoft", 1)
    model.ir_version = max(model.ir_version, 10)  # the first with int4


def packed(
    node: onnx.NodeProto, values: NDArray[np.float32], *, bits: int, block_size: int, products: str
) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """MatMulNBits for a MatMul with a weight of these values ``[K, N]``, and what it takes: steps, scales, zero points.

    ``bits``: 4 or 8; ``products``: a key of :data:`ACCURACY_LEVEL`. By the quantizer of one node: that of models wants
    all values in the model, and keeps them there.
    """
    from onnx import GraphProto, numpy_helper

    # The module sets the root logger up when it is imported, unless that has a handler already.
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        from onnxruntime.quantization.matmul_nbits_quantizer import (
            DefaultWeightOnlyQuantConfig,
            DefaultWeightOnlyQuantizer,
        )
    finally:
        root.removeHandler(handler)
    quantizer = DefaultWeightOnlyQuantizer(
        DefaultWeightOnlyQuantConfig(block_size=block_size, accuracy_level=ACCURACY_LEVEL[products], bits=bits)
    )
    alone = GraphProto(initializer=[numpy_helper.from_array(values, node.input[1])])
    with np.errstate(invalid="ignore"):  # a block of zeros, such as the padding token's: 0 / 0, which it looks for
        (product,) = quantizer.quantize_matmul(node, [alone])
    return product, list(alone.initializer)[1:]


def like(product: onnx.NodeProto, node: onnx.NodeProto, suffix: str) -> onnx.NodeProto:
    """``product`` in the place of ``node``, which has the same weight; named after its output and ``suffix``."""
    from onnx import NodeProto

    made = NodeProto()
    made.CopyFrom(product)
    made.input[0], made.output[0], made.name = node.input[0], node.output[0], f"{node.output[0]}.{suffix}"
    return made
