"""HIGGS for ONNX: weights are shipped in 2 to 4 bits, and multiplied in fp32 or int8; needs no calibration texts."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bantam.artifact import Artifact, Compute, Numbers
from bantam.errors import StageError
from optimizer.config import QuantizeConfig
from optimizer.quantize import onnx_dynamic
from optimizer.quantize.method import Batches, Method, Quantized
from optimizer.stage import RunContext

if TYPE_CHECKING:
    import onnx

    from optimizer.quantize.higgs import Packed, Scheme

MODEL, DATA = "model.onnx", "model.onnx.data"


class HiggsConfig(QuantizeConfig):
    """Matrix products and embeddings shipped in 2, 3 or 4 bits, restored when the model is loaded."""

    method: Literal["onnx-higgs"] = "onnx-higgs"
    bits: Literal[2, 3, 4] = 4
    """A weight, beside a scale of 16 bits for each group."""
    embedding_bits: Literal[2, 3, 4] | None = None
    """Of the embeddings; as `bits` if absent."""
    grid: Literal["normal-2d", "normal-1d", "uniform"] = "normal-2d"
    """What weights are rounded to after a random Hadamard transform: pairs of weights, or each alone, to points that
    are best for normal numbers; or, without a transform, to integers (rounding to nearest, large values clipped)."""
    group_size: Literal[16, 32, 64, 128, 256] = 128
    """How many weights share a scale, at most: where that does not divide the rows of a matrix, half of it, and so on
    down to 16, or rows are filled up with zeros, whichever takes fewest bytes."""
    products: Literal["fp32", "int8"] = "fp32"
    """What matrix products are computed in: the restored weights, or those in int8 as `onnx-dynamic-int8` has them."""


Packing = dict[str, tuple["Packed", "Scheme"]]
"""Weight -> what is stored of it, and how that was made."""
Shapes = dict[str, tuple[int, ...]]
"""Weight -> rows and columns."""


def write(parent: Artifact, config: HiggsConfig, context: RunContext, batches: Batches) -> Quantized:
    """Write ``model.onnx``, whose large weights are packed, and restored by nodes before those that use them.

    Small weights, the classifier's among them, stay as they are. Raises :class:`StageError` if all are small.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel

    from optimizer.quantize.higgs import Scheme
    from optimizer.quantize.onnx_graph import load
    from optimizer.quantize.restore import memory_bytes

    model, int8 = load(parent), config.products == "int8"
    if int8:
        ONNXModel(model).replace_gemm_with_matmul()
    scheme = Scheme(config.bits, config.grid, config.group_size)
    of_tables = replace(scheme, bits=config.embedding_bits or config.bits)
    tables, products = _weights(model.graph)
    schemes = {name: of_tables.fits(columns) for name, (_, columns) in tables.items()}
    schemes |= {name: scheme.fits(columns) for name, (_, columns) in products.items()}
    if not schemes:
        raise StageError(
            f"{parent.name!r} has no matrix of at least 4096 weights: there is nothing to gain. Ship it as it is."
        )
    packing = _packing(model.graph, schemes)
    _restore(model.graph, {name: part for name, part in packing.items() if name in tables})
    if int8:
        model = _in_int8(model, parent, config, context, batches)
    of_products = {name: part for name, part in packing.items() if name in products}
    _restore(model.graph, of_products)
    details = _details(packing, tables, products)
    details["memory_bytes"] = memory_bytes(model.graph, tables | products)
    ONNXModel(model).save_model_to_file(context.folder / MODEL, (parent.folder / DATA).exists())
    return Quantized(_compute(parent, config, config.bits if of_products else of_tables.bits), details)


METHOD = Method(HiggsConfig, accepts=frozenset({"onnx"}), makes="onnx", write=write)


def _details(packing: Packing, tables: Shapes, products: Shapes) -> dict[str, Any]:
    """How many weights are packed, what they take in few bits and in fp32, and bits a weight, scales included."""
    from optimizer.quantize.onnx_4bit import bytes_by_kind

    whole, saved = {}, {}
    for kind, shapes in (("product", products), ("embedding", tables)):
        whole[kind] = 4 * sum(math.prod(shape) for shape in shapes.values())
        saved[kind] = whole[kind] - sum(packing[name][0].size_bytes for name in shapes)
    left = sum(whole.values()) - sum(saved.values())
    counts: dict[str, Any] = {"packed_products": len(products), "packed_embeddings": len(tables)}
    return counts | {"average_bits": 32 * left / sum(whole.values())} | bytes_by_kind(whole, saved)


def _compute(parent: Artifact, config: HiggsConfig, bits: int) -> Compute:
    """``bits``: those of the products, which are what is computed with; of tables where there is nothing else."""
    kind: Literal["int", "grid"] = "int" if config.grid == "uniform" else "grid"
    weights = Numbers(kind, bits, "symmetric", "block")
    if config.products == "int8":
        return replace(onnx_dynamic.COMPUTE, weights=weights)
    return Compute(weights, batch_invariant=parent.manifest.compute.batch_invariant)


def _weights(graph: onnx.GraphProto) -> tuple[Shapes, Shapes]:
    """Large tables that are looked up by rows, and large weights of products."""
    from optimizer.quantize.onnx_graph import embedding_lookups, is_large

    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer if is_large(weight)}
    tables = {node.input[0]: shapes[node.input[0]] for node in embedding_lookups(graph)}
    multiplied = [node.input[1] for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    return tables, {name: shapes[name] for name in multiplied if name in shapes and name not in tables}


def _packing(graph: onnx.GraphProto, schemes: Mapping[str, Scheme]) -> Packing:
    from onnx import numpy_helper

    from optimizer.quantize.higgs import packed

    weights = {weight.name: weight for weight in graph.initializer}
    return {name: (packed(numpy_helper.to_array(weights[name]), scheme), scheme) for name, scheme in schemes.items()}


def _in_int8(
    model: onnx.ModelProto, parent: Artifact, config: HiggsConfig, context: RunContext, batches: Batches
) -> onnx.ModelProto:
    """``model`` with its products as ``onnx-dynamic-int8`` makes them."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    from optimizer.quantize.onnx_graph import load

    with tempfile.TemporaryDirectory(dir=context.scratch) as folder:
        before = Artifact(Path(folder), parent.manifest, parent.name)
        ONNXModel(model).save_model_to_file(before.folder / MODEL, (parent.folder / DATA).exists())
        onnx_dynamic.write(before, onnx_dynamic.DynamicInt8Config(name=config.name), context, batches)
    made = load(Artifact(context.folder, parent.manifest))
    (context.folder / DATA).unlink(missing_ok=True)
    return made


def _restore(graph: onnx.GraphProto, packing: Packing) -> None:
    """Put what is stored of these weights in their place, and nodes that restore them before those that use them.

    Rows of a table of many are restored where an input of the model looks them up. What is in int8 is made of the
    restored weight.
    """
    from optimizer.quantize.embeddings import FEW_ROWS
    from optimizer.quantize.onnx_graph import embedding_lookups
    from optimizer.quantize.restore import Restoring

    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.input}
    lookups: dict[str, list[onnx.NodeProto]] = {}
    for node in embedding_lookups(graph):
        lookups.setdefault(node.input[0], []).append(node)
    restoring = Restoring(graph)
    first: list[onnx.NodeProto] = []
    instead: dict[str, list[onnx.NodeProto]] = {}
    for name, (parts, scheme) in packing.items():
        uses = lookups.get(name, [])
        if uses and len(parts.scales) >= FEW_ROWS and all(node.input[1] in ranks for node in uses):
            for node in uses:
                instead[node.output[0]] = restoring.rows(name, parts, scheme, node, ranks[node.input[1]])
        else:
            first += restoring.matrix(name, parts, scheme)
    nodes = [new for node in graph.node for new in instead.get(node.output[0], [node])]
    del graph.node[:]
    graph.node.extend([*first, *nodes])
