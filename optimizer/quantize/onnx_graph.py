"""What the quantizers of ONNX graphs share: the graph to start from, and where its embeddings are."""

from __future__ import annotations

import re
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from bantam.artifact import Artifact
from bantam.errors import RecipeError

SMALLEST = 16_384
"""Bytes; weights below this stay fp32: nothing to gain."""


def load(parent: Artifact, *, values: bool = True) -> onnx.ModelProto:
    """The graph and weights of a parent in layout onnx, without the shapes that the export noted.

    Quantizers transpose weights, and trip over what was said about them. ``values = False``: weights that are in a file
    beside the graph stay there until somebody reads them, one by one.
    """
    model = onnx.load(parent.folder / "model.onnx", load_external_data=values)
    del model.graph.value_info[:]
    return model


def opened(parent: Artifact) -> onnx.ModelProto:
    """As :func:`load`, values beside the graph left there, with a MatMul for each Gemm."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    model = load(parent, values=False)
    take_in(model.graph, parent.folder, transposed(model.graph))
    ONNXModel(model).replace_gemm_with_matmul()
    return model


def transposed(graph: onnx.GraphProto) -> set[str]:
    """Names of the weights that a Gemm takes transposed: to make it a MatMul, ONNX Runtime turns their values over.

    GPT-2's are not: its weights are ``[inputs, outputs]`` already, and may stay in their file.
    """
    return {
        node.input[1]
        for node in graph.node
        if node.op_type == "Gemm" and any(each.name == "transB" and each.i for each in node.attribute)
    }


def take_in(graph: onnx.GraphProto, folder: Path, names: Collection[str] | None = None) -> None:
    """Read the values of these weights, or of all, into the graph, if they are in a file beside it in ``folder``."""
    for weight in graph.initializer:
        if uses_external_data(weight) and (names is None or weight.name in names):
            load_external_data_for_tensor(weight, str(folder))


def stored(graph: onnx.GraphProto, names: Collection[str] | None = None) -> int:
    """Bytes of these weights, or of all, in the graph or beside it."""
    return sum(
        int(np.prod(weight.dims)) * onnx.helper.tensor_dtype_to_np_dtype(weight.data_type).itemsize
        for weight in graph.initializer
        if names is None or weight.name in names
    )


def is_large(weight: TensorProto) -> bool:
    """Whether it is a matrix in fp32 that is worth quantizing."""
    large = 4 * int(np.prod(weight.dims)) >= SMALLEST
    return large and len(weight.dims) == 2 and weight.data_type == TensorProto.FLOAT


def embedding_lookups(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that take rows from a large table, if the table is used for nothing else."""
    weights = {weight.name: weight for weight in graph.initializer}
    lookups = [node for node in graph.node if node.op_type == "Gather" and _takes_rows(node, weights)]
    used_elsewhere = {name for node in graph.node if node not in lookups for name in node.input}
    return [node for node in lookups if node.input[0] not in used_elsewhere]


def _takes_rows(node: onnx.NodeProto, weights: dict[str, TensorProto]) -> bool:
    by_rows = all(attribute.i == 0 for attribute in node.attribute if attribute.name == "axis")
    return by_rows and node.input[0] in weights and is_large(weights[node.input[0]])


def products_of(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The products (MatMul) of an activation with a large matrix of weights, in the graph's order."""
    weights = {weight.name for weight in graph.initializer if is_large(weight)}
    return [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]


def layer_of(weight: str) -> str:
    """The module whose weight it is, such as ``bert.pooler.dense``: the export names weights after their modules."""
    return weight.removesuffix(".weight")


def excluded(patterns: Collection[str], layers: Collection[str]) -> set[str]:
    """The layers that the patterns of a recipe name: a block's name stands for all in it, and ``*`` for anything.

    Raises :class:`RecipeError` for patterns that name none of ``layers``.
    """
    found = {pattern: {layer for layer in layers if _matches(layer, pattern)} for pattern in patterns}
    unknown = [pattern for pattern, named in found.items() if not named]
    if unknown:
        known = dict.fromkeys(re.sub(r"\b\d+\b", "*", layer) for layer in layers)
        raise RecipeError(f"exclude: there is no layer {', '.join(unknown)}. Known: {', '.join(known)}.")
    return {layer for named in found.values() for layer in named}


def _matches(layer: str, pattern: str) -> bool:
    return fnmatchcase(layer, pattern) or fnmatchcase(layer, f"{pattern}.*")


def bias_of(graph: onnx.GraphProto, product: onnx.NodeProto) -> onnx.NodeProto | None:
    """The node that adds a vector of weights to a product, if that is all that the product is used for."""
    vectors = {weight.name for weight in graph.initializer if len(weight.dims) == 1}
    uses = [node for node in graph.node if product.output[0] in node.input]
    sole = len(uses) == 1 and uses[0].op_type == "Add" and uses[0].input[0] == product.output[0]
    return uses[0] if sole and uses[0].input[1] in vectors else None
